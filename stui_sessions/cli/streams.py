"""The standard streams of a process: there whatever its caller left open, and heard when they take nothing more."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

UNWRITTEN = 2
"""The exit code of a command whose output did not arrive."""


class OutputError(OSError):
    """stdout did not take what was written; the text says why.

    It has no `errno`, by which click would know a broken pipe and end without a word.
    """


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Run a command of this process; what stdout does not take ends it with one line on stderr and exit code 2."""
    _open_closed_descriptors()
    _replace_streams()
    try:
        try:
            yield
        finally:
            # Python would do it at its exit, and show a traceback where it fails.
            sys.stdout.flush()
    except OutputError as error:
        click.echo(f"stui-sessions: {error}", err=True)
        sys.exit(UNWRITTEN)


def _open_closed_descriptors() -> None:
    """Have something at 0, 1 and 2: what is opened later would land there, and libuv aborts when it closes that.

    /dev/null is opened the wrong way round, so that reading from a closed stdin and writing to a closed stdout
    fail as they should.  A closed stderr takes everything: there is nowhere to tell of a failure.
    """
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest number that is free, which is this one


def _replace_streams() -> None:
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)))
    sys.stdout = _writer(_Stdout(1, "w", closefd=False), sys.stdout, "strict")
    sys.stderr = _writer(_Stderr(2, "w", closefd=False), sys.stderr, "backslashreplace")


def _writer(raw: io.FileIO, before: Any, errors: str) -> io.TextIOWrapper:
    """A text stream over `raw` that writes as `before` did (None: it was closed)."""
    encoding = getattr(before, "encoding", None) or "utf-8"
    errors = getattr(before, "errors", None) or errors
    by_line = raw.isatty() or raw.fileno() == 2
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=by_line)


class _Stdout(io.FileIO):
    """Tells once that it takes nothing more; from then on it is as if it did, also at Python's exit."""

    _failed = False

    def write(self, data: Any, /) -> Any:
        try:
            return len(data) if self._failed else super().write(data)
        except OSError as error:
            self._failed = True
            reason = "it is closed" if error.errno == errno.EBADF else error.strerror
            raise OutputError(f"stdout cannot be written: {reason}") from None


class _Stderr(io.FileIO):
    """What it does not take is lost: that is no reason to fail, and there is nowhere to say it."""

    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except OSError:
            return len(data)
