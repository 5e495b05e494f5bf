"""Waiting for something without guessing how long it takes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(probe: Callable[[], T], what: str, timeout: float = 10.0) -> T:
    """Ask `probe` until its answer is true, and return that; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for {what}; last answer: {answer!r}"
        time.sleep(0.01)
    return answer
