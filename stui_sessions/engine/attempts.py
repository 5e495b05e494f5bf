"""Requests on their way: one that waits for loads, one that is decided, and who waits for either."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, final

from msgspec import Struct

from stui_sessions.domain.caller import Caller
from stui_sessions.domain.draft import Bucket
from stui_sessions.domain.entities import Key
from stui_sessions.domain.finding import Answer, Question
from stui_sessions.errors import Refusal
from stui_sessions.protocol.messages import Reply
from stui_sessions.protocol.registry import Request
from stui_sessions.storage.contract import Batch

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
    stood_on: int = -1  # the commit that it needs itself, where it waits for a later one because of its place

    @property
    def needs(self) -> int:
        """The highest commit that the reply stands on."""
        return self.commit if self.stood_on < 0 else self.stood_on


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


class Flight(Struct, gc=False):
    """A commit that is tried."""

    batch: Batch
    buckets: list[Bucket]  # what its creations were counted for
    refusal: Refusal | None = None  # once it has failed: for those who wrote in it; None: they decide again


class Failure(Struct, frozen=True):
    """Commits that did not come about.

    `lost` are those that were tried, each with the refusal for those who wrote in it
    (None: decide again, others had committed what it stood on); what is behind `last`
    was forgotten with them.  `overdue`: what is not lost is still on its way and takes
    long, so who only reads does not wait for it and is refused so.
    """

    lost: Mapping[int, Refusal | None]
    last: int
    overdue: Refusal | None = None

    def hits(self, number: int) -> bool:
        """What stands on commit `number` is to be decided again."""
        return number in self.lost or number > self.last


class Waiter(Protocol):
    """One whose replies wait for commits."""

    def release(self, committed: int) -> None:
        """Commits up to `committed` are on disk."""

    def redo(self, failure: Failure) -> None:
        """Some commits did not come about: decide again what stood on them; the rest is released, or waits on."""
