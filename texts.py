"""The words of the pages, in each language they speak.

One flat table a language, the same keys in each. `{queue}` and `{previous}` are filled in
with names of queues, `{place}` and `{minutes}` with numbers, on the server and by
`static/track.js` alike.
"""

import re
from collections.abc import Mapping

DEFAULT = "en"

ENGLISH = {
    "name": "English",
    "time": "%Y-%m-%d %H:%M UTC",
    "order": "Order",
    "number": "Number",
    "items": "Items",
    "steps": "Steps",
    "history": "What happened",
    "last_change": "Last change",
    "cancel_requested": "Its cancellation was asked for.",
    "no_script": "Reload the page to see what is new.",
    # where it stands
    "status.pending": "In line",
    "status.processing": "In progress",
    "status.completed": "Completed",
    "status.failed": "Stopped",
    "status.cancelled": "Cancelled",
    "status.expired": "Expired",
    "about.pending": "It waits for its turn in {queue}.",
    "about.processing": "It is being worked on in {queue}.",
    "about.completed": "Everything is done.",
    "about.failed": "It could not be finished in {queue}. Please ask the shop.",
    "about.cancelled": "It was cancelled, nothing more will happen.",
    "about.expired": "Its time ran out before its turn came. Please ask the shop.",
    # its place in the line
    "place.exact": "Place {place} in line",
    "place.beyond": "Beyond place {place} in line",
    "place.time": ", about {minutes} min",
    # what happened
    "event.order.created": "Received in {queue}",
    "event.order.processing": "Work began in {queue}",
    "event.order.requeued": "Back in line in {queue}",
    "event.order.requeued.nack": "A try in {queue} failed; back in line",
    "event.order.requeued.released": "Given back to the line in {queue}",
    "event.order.requeued.lease_expired": "Work in {queue} broke off; back in line",
    "event.order.requeued.redriven": "Taken up again in {queue}",
    "event.order.requeued.retried": "Taken up again in {queue}",
    "event.order.forwarded": "Done in {previous}, on to {queue}",
    "event.order.cancel_requested": "Cancellation asked for",
    "event.order.completed": "Completed in {queue}",
    "event.order.failed": "Stopped in {queue}",
    "event.order.cancelled": "Cancelled in {queue}",
    "event.order.expired": "Time ran out in {queue}",
    # the line to the service
    "line.connecting": "Connecting…",
    "line.live": "Live: changes appear by themselves",
    "line.waiting": "The connection is gone; trying again…",
    "line.expired": "This link has expired. Ask whoever sent it to you for a new one.",
    "line.revoked": "This page may not follow the order any more. Ask for a new link.",
    "line.over": "Nothing more will change.",
    # pages that say no
    "problem.unauthenticated.title": "A link is needed",
    "problem.unauthenticated": "Open this page by the link that came with your order, or sign"
    " in first if you have an account here.",
    "problem.expired.title": "This link has expired",
    "problem.expired": "Your order is not affected. Ask whoever sent you the link, usually the"
    " shop where you bought, for a new one.",
    "problem.bad_link.title": "This link does not work",
    "problem.bad_link": "Perhaps a part of it is missing, or it was withdrawn. Open it exactly"
    " as you got it, or ask whoever sent it for a new one.",
    "problem.not_found.title": "Nothing here",
    "problem.not_found": "There is no such order, or this link does not open it. Check the"
    " address, or ask whoever sent it to you.",
    "problem.forbidden.title": "Not for this account",
    "problem.forbidden": "Your account may not see this page.",
    "problem.invalid.title": "This address was changed on its way",
    "problem.invalid": "Something in it does not belong there. Open the link exactly as you"
    " got it.",
    "problem.rate_limited.title": "Too often",
    "problem.rate_limited": "This page was asked for very often. Wait a minute and try again.",
    "problem.other.title": "This did not work",
    "problem.other": "Please try again in a moment.",
}

PORTUGUESE = {
    "name": "Português",
    "time": "%d/%m/%Y %H:%M UTC",
    "order": "Pedido",
    "number": "Número",
    "items": "Itens",
    "steps": "Etapas",
    "history": "O que aconteceu",
    "last_change": "Última mudança",
    "cancel_requested": "O cancelamento foi pedido.",
    "no_script": "Recarregue a página para ver o que há de novo.",
    "status.pending": "Na fila",
    "status.processing": "Em andamento",
    "status.completed": "Concluído",
    "status.failed": "Parado",
    "status.cancelled": "Cancelado",
    "status.expired": "Expirado",
    "about.pending": "Espera a sua vez em {queue}.",
    "about.processing": "Está sendo atendido em {queue}.",
    "about.completed": "Está tudo pronto.",
    "about.failed": "Não foi possível concluí-lo em {queue}. Fale com a loja.",
    "about.cancelled": "Foi cancelado, nada mais vai acontecer.",
    "about.expired": "O prazo acabou antes da sua vez. Fale com a loja.",
    "place.exact": "Lugar {place} na fila",
    "place.beyond": "Depois do lugar {place} na fila",
    "place.time": ", cerca de {minutes} min",
    "event.order.created": "Recebido em {queue}",
    "event.order.processing": "Atendimento iniciado em {queue}",
    "event.order.requeued": "De volta à fila em {queue}",
    "event.order.requeued.nack": "Uma tentativa em {queue} falhou; de volta à fila",
    "event.order.requeued.released": "Devolvido à fila em {queue}",
    "event.order.requeued.lease_expired": "O atendimento em {queue} parou; de volta à fila",
    "event.order.requeued.redriven": "Retomado em {queue}",
    "event.order.requeued.retried": "Retomado em {queue}",
    "event.order.forwarded": "Pronto em {previous}, segue para {queue}",
    "event.order.cancel_requested": "Cancelamento pedido",
    "event.order.completed": "Concluído em {queue}",
    "event.order.failed": "Parado em {queue}",
    "event.order.cancelled": "Cancelado em {queue}",
    "event.order.expired": "O prazo acabou em {queue}",
    "line.connecting": "Conectando…",
    "line.live": "Ao vivo: as mudanças aparecem sozinhas",
    "line.waiting": "A conexão caiu; tentando de novo…",
    "line.expired": "Este link expirou. Peça um novo a quem o enviou.",
    "line.revoked": "Esta página não pode mais acompanhar o pedido. Peça um novo link.",
    "line.over": "Nada mais vai mudar.",
    "problem.unauthenticated.title": "É preciso um link",
    "problem.unauthenticated": "Abra esta página pelo link que veio com o seu pedido ou, se"
    " você tem uma conta aqui, entre primeiro.",
    "problem.expired.title": "Este link expirou",
    "problem.expired": "O seu pedido não foi afetado. Peça um novo link a quem o enviou,"
    " normalmente a loja onde você comprou.",
    "problem.bad_link.title": "Este link não funciona",
    "problem.bad_link": "Talvez falte uma parte dele, ou ele foi retirado. Abra-o exatamente"
    " como o recebeu, ou peça um novo a quem o enviou.",
    "problem.not_found.title": "Não há nada aqui",
    "problem.not_found": "Este pedido não existe, ou este link não o abre. Confira o endereço,"
    " ou pergunte a quem o enviou.",
    "problem.forbidden.title": "Não para esta conta",
    "problem.forbidden": "A sua conta não pode ver esta página.",
    "problem.invalid.title": "Este endereço mudou no caminho",
    "problem.invalid": "Há algo nele que não pertence ali. Abra o link exatamente como o recebeu.",
    "problem.rate_limited.title": "Vezes demais",
    "problem.rate_limited": "Esta página foi pedida muitas vezes. Espere um minuto e tente de"
    " novo.",
    "problem.other.title": "Não deu certo",
    "problem.other": "Tente de novo daqui a pouco.",
}

TEXTS: Mapping[str, Mapping[str, str]] = {"en": ENGLISH, "pt-BR": PORTUGUESE}

_RANGE = re.compile(r"\s*([A-Za-z*]{1,8})(?:-[A-Za-z0-9-]+)?\s*(?:;\s*q=([01](?:\.\d{0,3})?)\s*)?")


def language(wanted: str | None, accepted: str) -> str:
    """The language of a page: the one asked for, else the best of an `Accept-Language`.

    Only the first part of a tag counts: `pt-PT` reads Brazilian Portuguese rather than English.
    """
    if wanted is not None and wanted in TEXTS:
        return wanted
    ours = {tag.partition("-")[0]: tag for tag in TEXTS} | {"*": DEFAULT}
    found = [match for part in accepted.split(",") if (match := _RANGE.fullmatch(part))]
    ranked = sorted(found, key=lambda match: -float(match[2] or 1))
    chosen = [ours[match[1].lower()] for match in ranked if match[1].lower() in ours]
    return chosen[0] if chosen else DEFAULT
