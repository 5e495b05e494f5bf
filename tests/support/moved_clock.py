"""A server whose wall clock can be moved while it runs: `python -m tests.support.moved_clock serve …`.

The file that MOVED_CLOCK names holds by how many seconds.  The monotonic clock is left as it is, as when
somebody sets the real clock.
"""

import mmap
import os
import struct
import sys
import time
from pathlib import Path

VARIABLE = "MOVED_CLOCK"
_OFFSET = struct.Struct("=q")


class WallClock:
    """The test's hand on the clock."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.environment = {VARIABLE: str(file)}
        self.set(0)

    def set(self, seconds: int) -> None:
        """So far from the real time, at once."""
        if not self.file.exists():
            self.file.write_bytes(bytes(_OFFSET.size))
        with self.file.open("r+b") as file:
            file.write(_OFFSET.pack(seconds))


def move_clock() -> None:
    """Have `time.time` and `time.time_ns` of this process follow the file."""
    with open(os.environ[VARIABLE], "rb") as file:
        memory = mmap.mmap(file.fileno(), _OFFSET.size, prot=mmap.PROT_READ)
    real = time.time_ns

    def time_ns() -> int:
        return real() + _OFFSET.unpack_from(memory)[0] * 1_000_000_000

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


if __name__ == "__main__":
    move_clock()
    from stui_sessions.cli.main import main

    sys.exit(main(prog_name="stui-sessions"))
