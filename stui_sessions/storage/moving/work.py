"""A move: copy, compare, and only then let servers have it."""

from collections.abc import Callable

from msgspec import Struct

from stui_sessions.errors import StorageDamaged, StorageError
from stui_sessions.storage.moving.content import STEPS, Contents, Counts, Side, Source, Step, Target

Report = Callable[[str, int, int], None]
"""Hears what is being done, and how many rows of how many it has come to."""

NAMES: dict[Step, str] = {
    "records": "records of the history",
    "sessions": "sessions",
    "entities": "owners and external ids",
}


class Moved(Struct):
    """What a move has come to."""

    contents: Contents
    was_there: bool  # an earlier move had done it all


async def move(source: Source, target: Target, report: Report) -> Moved:
    """Move everything.  StartError or StorageError: the target is not complete, and no server can use it.

    The same move, called again, goes on where one was cut off.
    """
    try:
        side = await source.open()
        there = await target.open()
        if there is not None:
            return Moved(await _found_equal(side, there, target.hint, report), True)
        counts = await side.counts()
        await _copy(source, side, target, counts, report)
        contents = await _contents(side, counts.all * 2, 0, report)
        made = await target.finish(contents.counted(), await side.last_number())
        try:
            other = await _contents(made, counts.all * 2, counts.all, report)
            different = await _different(side, contents, made, other)
        except StorageDamaged as error:
            different = str(error)
        if different:
            await target.forget()
            raise StorageError(f"what was moved is not what is there: {different}. Run it again: it begins anew")
        await target.publish()
        return Moved(contents, False)
    finally:
        await target.close()
        await source.close()


async def _copy(source: Source, side: Side, target: Target, counts: Counts, report: Report) -> None:
    marker = await target.begin(await source.identity(), await source.state())
    steps = STEPS[STEPS.index(marker.step) :] if marker.step in STEPS else ()
    done = counts.all - sum(getattr(counts, step) for step in steps) + marker.done
    for step in steps:
        async for piece in side.pieces(step, marker.done if step == marker.step else 0):
            await target.put(step, piece)
            done += len(piece)
            report("move", done, counts.all)
        await target.end(step)


async def _contents(side: Side, total: int, done: int, report: Report) -> Contents:
    """All that a side holds; `done` rows of `total` were looked at before."""
    found = Contents()
    for step in STEPS:
        async for piece in side.pieces(step):
            found.add(step, piece)
            done += len(piece)
            report("check", done, total)
    return found


async def _different(a: Side, in_a: Contents, b: Side, in_b: Contents) -> str:
    """What is not the same; empty if everything is."""
    for step, name in NAMES.items():
        one, other = getattr(in_a, step), getattr(in_b, step)
        if one != other:
            return f"{name}: {one} in {a.name}, {other} in {b.name}"
    if in_b.counted() != await b.totals():
        return f"totals: those that {b.name} keeps are not those of its sessions"
    least, found = await a.least_number(), await b.least_number()
    if found < least:
        return f"session numbers: given out up to {least} in {a.name}, to {found} in {b.name}"
    return ""


async def _found_equal(a: Side, b: Side, hint: str, report: Report) -> Contents:
    """What both hold; StorageError if it is not the same."""
    one, other = await a.counts(), await b.counts()
    if one == other:
        contents = await _contents(a, one.all * 2, 0, report)
        different = await _different(a, contents, b, await _contents(b, one.all * 2, one.all, report))
        if not different:
            return contents
    else:
        different = "; ".join(
            f"{name}: {getattr(one, step):,} and {getattr(other, step):,}"
            for step, name in NAMES.items()
            if getattr(one, step) != getattr(other, step)
        )
    raise StorageError(f"{b.name} holds something else than {a.name} ({different}) and is left as it is: {hint}")
