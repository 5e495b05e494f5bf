"""The journal collapsed: what the contract suite does not reach through a store."""

import pytest

from stui_sessions.errors import StorageDamaged
from stui_sessions.sessions.model import (
    About,
    Created,
    Edited,
    Ended,
    Record,
    Removed,
    Reopened,
    Session,
    Totals,
    Updated,
    Used,
    apply,
)
from stui_sessions.storage.replay import Base, Replay
from stui_sessions.storage.rows import Entry
from tests.storage.stores import T0, session


def entries(*batches: list[Record], first: int = 1) -> list[Entry]:
    return [Entry(2, n, Totals(n, n, n), records) for n, records in enumerate(batches, first)]


def update(number: int, at: int, *objects: bytes | None) -> Updated:
    return Updated(number, at, T0 + at, *objects, *[None] * (4 - len(objects)))


def test_a_gap_is_damage() -> None:
    replay = Replay()
    replay.apply(entries([], [], first=5))
    with pytest.raises(StorageDamaged, match="gap: entry 6 is followed by 8"):
        replay.apply(entries([], first=8))


def test_an_entry_twice_is_damage() -> None:
    replay = Replay()
    replay.apply(entries([], first=5))
    with pytest.raises(StorageDamaged, match="gap"):
        replay.apply(entries([], first=5))


def test_a_change_of_what_is_stored_nowhere_is_damage() -> None:
    replay = Replay()
    replay.apply(entries([Used(4, T0)]))
    assert replay.wanted() == [4]
    with pytest.raises(StorageDamaged, match="session 4, which is not stored"):
        replay.put(4, None)


def test_a_change_after_the_removal_is_damage() -> None:
    replay = Replay()
    with pytest.raises(StorageDamaged, match="entry 2 changes removed session 4"):
        replay.apply(entries([Removed(4, "a", "c")], [Used(4, T0)]))


def test_a_damaged_session_stays_out_of_it() -> None:
    replay = Replay()
    replay.apply(entries([Used(4, T0), Used(5, T0)]))
    replay.put(4, Base(0, None))
    replay.put(5, Base(0, session(5)))
    assert replay.damaged == [4]
    assert [p.number for p in replay.pending()] == [5]


def test_only_what_is_needed_is_wanted() -> None:
    replay = Replay()
    replay.apply(entries([Created(session(1)), Used(9, T0), Removed(3, "a", "c")], [Used(1, T0), Used(2, T0)]))
    assert replay.wanted() == [2, 9]


CHANGES: list[Record] = [
    update(1, 1, b"{1}", b"{2}", b"{0}", b"{0}"),
    Used(1, T0 + 2),
    update(1, 3, None, b"{3}", b"{4}"),
    update(1, 3),
    Used(1, T0 + 4),
    update(1, 5, b"{5}", None, None, b"{6}"),
    Edited(1, 60, About(title="first", tags=("a",))),
    Used(1, T0 + 6),
    Ended(1, 2, T0 + 7),
    Reopened(1, T0 + 8, About(title="first", ends_at=T0 + 99)),
    Edited(1, 70, About(title="second")),
    update(1, 9, None, None, None, b"{7}"),
    Ended(1, 3, T0 + 10),
    Reopened(1, T0 + 11, About(title="third")),
    Ended(1, 1, T0 + 12),
]


@pytest.mark.parametrize("count", range(len(CHANGES) + 1))
@pytest.mark.parametrize("snapshot", range(len(CHANGES) + 1))
def test_changes_on_a_stored_form_however_far_it_had_come(count: int, snapshot: int) -> None:
    if snapshot > count:
        return
    forms: list[Session] = [session(1)]
    for change in CHANGES:
        forms.append(apply(forms[-1], change) or forms[-1])
    replay = Replay()
    replay.apply(entries(*([change] for change in CHANGES[:count])))
    for number in replay.wanted():
        replay.put(number, Base(snapshot, forms[snapshot]))
    assert replay.pending() == ([forms[count]] if count > snapshot else [])


def test_an_id_that_was_free_again() -> None:
    replay = Replay()
    replay.apply(
        entries([Used(5, T0)], [Removed(5, "x", "c")], [Created(session(9, session_id="x"))], [Used(9, T0 + 1)])
    )
    assert replay.wanted() == []
    assert replay.pending() == [Removed(5, "x", "c"), session(9, session_id="x", active_at=T0 + 1)]


def test_the_newest_entry_has_the_totals() -> None:
    replay = Replay()
    replay.apply(entries([], [], [], first=3))
    assert (replay.sequence, replay.totals, replay.entries) == (5, Totals(5, 5, 5), 3)
