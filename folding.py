"""Texts as searches compare them."""

import unicodedata


def folded(text: str) -> str:
    """A text without its case and accents: "ANTÔNIO" and "antonio" are the same.

    Each character is folded for itself, so what is a part of a text is a part of it folded. Here,
    since the two databases do not fold alike. Texts are stored folded (`words`, `artist`,
    `genre`): another way to fold needs a migration.
    """
    parts = unicodedata.normalize("NFKD", text.casefold())
    # Once more: there are letters that have a case only when they are taken apart.
    return "".join(part for part in parts if not unicodedata.combining(part)).casefold()
