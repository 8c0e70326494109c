"""The streams that are open: whose they are, and how many anybody may have."""

from collections import Counter
from dataclasses import dataclass

from auth import Principal
from config import Settings
from errors import Overloaded, TooManyStreams


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a stream is: by which credential, from which address."""

    principal: Principal | None
    address: str


class Streams:
    """How many streams are open, by whom. A stream counts from its admission to its end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._by_principal: Counter[str] = Counter()
        self._by_address: Counter[str] = Counter()
        self._open = 0

    def admit(self, owner: Owner) -> None:
        """
        Raises:
            Overloaded: the process has enough of them.
            TooManyStreams: the credential or the address has.
        """
        name, most = self._bound(owner)
        if self._open >= self._settings.max_streams:
            raise Overloaded(retry_after=5)
        if self._by_principal[name] >= most:
            raise TooManyStreams(retry_after=5)
        if self._by_address[owner.address] >= self._settings.max_streams_per_address:
            raise TooManyStreams(retry_after=5)
        self._open += 1
        self._by_principal[name] += 1
        self._by_address[owner.address] += 1

    def leave(self, owner: Owner) -> None:
        name, _ = self._bound(owner)
        self._open -= 1
        for counter, key in ((self._by_principal, name), (self._by_address, owner.address)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]

    def _bound(self, owner: Owner) -> tuple[str, int]:
        who = owner.principal
        if who is None:
            return f"address:{owner.address}", self._settings.max_streams_per_address
        if who.kind == "ticket":
            most = who.max_streams or self._settings.max_streams_per_principal
            return f"ticket:{who.token_id}", most
        return f"account:{who.account}", self._settings.max_streams_per_principal
