"""Long queries: run in a thread, and interrupted when their caller is cancelled."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def interruptible(work: asyncio.Future[T], interrupt: Callable[[], None]) -> T:
    """The result of a query that runs in a thread; if the caller is cancelled, so is the query."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await ended(work, interrupt)
        raise


async def ended(work: asyncio.Future[T], interrupt: Callable[[], None]) -> None:
    """Interrupt a query until it has ended."""
    while not work.done():  # an interrupt before the statement begins is lost
        interrupt()
        await asyncio.wait([work], timeout=0.05)
    if not work.cancelled():
        work.exception()  # seen: it is the interrupt
