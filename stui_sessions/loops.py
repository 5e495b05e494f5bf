"""Which event loop runs: uvloop where there is one, for the server and for whoever asks it much."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_quickly(coroutine: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on uvloop where it can be imported."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(coroutine)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: asyncio's own loop does the same, slower
        return None
    return uvloop.new_event_loop
