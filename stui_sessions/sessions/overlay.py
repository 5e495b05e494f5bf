"""The sessions whose last snapshot may be behind: what a search of the store has to be corrected by."""

from collections import OrderedDict
from collections.abc import Iterator

from stui_sessions.sessions.residents import Resident


class Overlay:
    """Residents with changes, or with activity, that are in no snapshot yet.

    While a search runs in the store, a session that a snapshot has caught up with
    stays: the search may have looked at its row before, and would have it wrong,
    or not at all.
    """

    def __init__(self) -> None:
        self._residents: dict[str, Resident] = {}
        self._settled: OrderedDict[str, tuple[int, Resident]] = OrderedDict()
        """Those that a snapshot has caught up with, and the last search that had begun when it last did."""
        self._searches: dict[int, None] = {}  # under way, in the order of their beginning
        self._begun = 0

    def __len__(self) -> int:
        return len(self._residents)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._residents

    def __iter__(self) -> Iterator[Resident]:
        return iter(self._residents.values())

    def add(self, resident: Resident) -> None:
        """It has changed, or was used."""
        self._residents[resident.session_id] = resident

    def drop(self, resident: Resident) -> None:
        """There is nothing to correct any more."""
        if self._residents.get(resident.session_id) is resident:
            del self._residents[resident.session_id]

    def settle(self, resident: Resident) -> None:
        """A snapshot has caught up with it, or there is nothing to write: its last change never came about."""
        if self._searches:
            self._settled[resident.session_id] = (self._begun, resident)
            self._settled.move_to_end(resident.session_id)
        else:
            self.drop(resident)

    def begin_search(self) -> int:
        """A search begins in the store; its number, for `end_search`."""
        self._begun += 1
        self._searches[self._begun] = None
        return self._begun

    def end_search(self, number: int) -> None:
        """What that search has found has been used."""
        del self._searches[number]
        oldest = next(iter(self._searches), self._begun + 1)
        while self._settled:
            session_id, (begun, resident) = next(iter(self._settled.items()))
            if begun >= oldest:
                break
            del self._settled[session_id]
            if not resident.dirty and not resident.is_unrecorded:
                self.drop(resident)
