"""A checker for recorded histories: is there an order of the calls that explains every answer?

The order must keep to real time: a call that was answered before another was made
comes before it (Herlihy and Wing, 1990; the search is that of Wing and Gong, with
the states that were tried remembered, as Lowe has it).
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

NEVER = 10**9


class Call(NamedTuple):
    """One call of a history.  Times are any that grow; `returned` is NEVER for one without an answer."""

    what: Any
    answer: Any
    invoked: int
    returned: int


Model = Callable[[Hashable, Call], list[Hashable]]
"""The states in which a call with that answer may leave the one it finds; none if it cannot have been answered so."""


def is_linearizable(history: Sequence[Call], start: Hashable, model: Model) -> bool:
    """Whether some order of the calls, in keeping with real time, explains all answers."""
    calls = sorted(history, key=lambda call: call.invoked)
    answered = sum(1 << i for i, call in enumerate(calls) if call.returned != NEVER)
    seen: set[tuple[int, Hashable]] = set()
    todo: list[tuple[int, Hashable]] = [(0, start)]
    while todo:
        done, state = todo.pop()
        if done & answered == answered:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        left = [i for i in range(len(calls)) if not done >> i & 1]
        # Nobody may go before one that was answered before it began.
        first_answer = min(calls[i].returned for i in left)
        for i in left:
            if calls[i].invoked <= first_answer:
                todo += [(done | 1 << i, after) for after in model(state, calls[i])]
    return False
