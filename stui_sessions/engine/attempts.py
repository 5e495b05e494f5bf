"""Requests on their way: one that waits for loads, one that is decided, and who waits for either."""

from collections.abc import Callable
from typing import Any, Protocol, final

from msgspec import Struct

from stui_sessions.domain.caller import Caller
from stui_sessions.domain.entities import Key
from stui_sessions.domain.finding import Answer, Question
from stui_sessions.errors import Refusal
from stui_sessions.protocol.messages import Reply
from stui_sessions.protocol.registry import Request

ITEM_WEIGHT = 300
"""Bytes that a request and its reply take at least."""


class Decided(Struct, gc=False):
    """A reply, and the commit that it must wait for."""

    reply: Reply
    commit: int
    wrote: bool = False
    only_used: bool = False  # what it wrote is nothing but the use of sessions
    weight: int = ITEM_WEIGHT  # bytes of memory, about
    again: Any = None  # what to decide again, the gate's own; None where there is nothing


@final
class Attempt:
    """A request that could not be decided at once, and everything that is held for it.

    What it has read stays pinned, and what the store has answered is kept, until it is
    decided or given up.
    """

    __slots__ = (
        "abandoned",
        "answers",
        "busy",
        "caller",
        "forgiving",
        "lacking",
        "outcome",
        "pinned",
        "refusal",
        "request",
        "resume",
        "since",
        "weight",
    )

    def __init__(self, request: Request, caller: Caller, resume: Callable[[], None], since: int | None = None) -> None:
        self.request = request
        self.caller = caller
        self.resume = resume
        """Called when it can be tried again."""
        self.since = since
        """What it is told, a look behind this one has found, see `Freshness`; None: a commit checks it."""
        self.busy = True
        """What it lacks is on its way."""
        self.abandoned = False
        """Its peer has left: no reply is wanted."""
        self.lacking: set[Key] = set()
        """What is being loaded for it."""
        self.pinned: set[Key] = set()
        self.answers: dict[Question, tuple[Answer, int]] = {}
        self.refusal: Refusal | None = None
        """Set when what it needs cannot be had."""
        self.outcome: Any = None
        """The result of an operation, once it has one."""
        self.forgiving = False
        """See `Draft.forgiving`."""
        self.weight = ITEM_WEIGHT
        """Bytes of memory that its request takes, about; the gate's to set."""

    def ask_again(self) -> None:
        """Something before it is decided again: what the store has answered, or answers now, may lack that."""
        self.answers = {}


class Waiter(Protocol):
    """One whose replies wait for commits."""

    def release(self, committed: int) -> None:
        """Commits up to `committed` are on disk."""

    def redo(self, failed: int, refusal: Refusal | None) -> None:
        """Commit `failed` did not come about, nor what was decided on top of it: decide again.

        Who wrote in that commit is refused, if there is a refusal.  What belongs to an
        earlier commit, which is still on its way, waits on.
        """
