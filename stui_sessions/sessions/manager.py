"""SessionManager: what the commands decide, and what must stay true about sessions.

One method a command, in a file for each kind: opening, using, telling, listing,
editing, ending, transfer; all of them stand on `ground.py`.  Each is a plain function of
what is resident, the caller, the parameters and the time: it changes the book in
one step and returns the result, or raises and has changed nothing: Refusal (the
answer is no) or NotResident (load that, then decide again).
"""

from stui_sessions.sessions.book import Change
from stui_sessions.sessions.ground import Rules
from stui_sessions.sessions.transfer import Transfer

__all__ = ["Rules", "SessionManager"]


class SessionManager(Transfer):
    """Decides.  `new_id(number, unix_seconds, form)` makes a session id nobody can guess."""

    def undo(self, changes: list[Change]) -> None:
        """Take back changes that could not be committed."""
        self.book.undo(changes)
        for change in changes:
            if change.paid is not None:
                self.rate.give_back(change.paid)
