"""Files that the command line writes: whole or not at all, and how far it is on a terminal."""

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click

from stui_sessions.cli.target import Failed
from stui_sessions.storage import files

MOMENT = 1.0
"""Seconds after which work is long enough to show how far it is."""


@contextlib.contextmanager
def written_whole(path: Path, *, force: bool) -> Iterator[Path]:
    """A path beside `path` for the new file, which takes its place at the end; Failed if there is one already.

    What is at the new path is removed if the work fails; else it is put on disk, mode 0600.
    """
    path = path.resolve()  # where a link leads, not in the place of the link
    refuse_existing(path, force)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        yield new
        new.chmod(0o600)
        files.sync_file(new)
        refuse_existing(path, force)
        new.replace(path)
        files.sync_directory(path.parent)
    finally:
        files.remove(new)


def refuse_existing(path: Path, force: bool) -> None:
    """Failed if there is something at `path` that must not be overwritten."""
    if path.exists() and not path.is_file():
        raise Failed(f"{path} is no regular file: name another one")
    if path.exists() and not force:
        raise Failed(f"{path} exists and is left as it is: name another file, or overwrite it with --force")


def create(path: Path) -> int:
    """A descriptor of a new file, mode 0600."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.fchmod(fd, 0o600)  # whatever the umask
    return fd


class ProgressBar:
    """A bar on stderr, if that is a terminal and the work takes longer than a moment."""

    def __init__(self, label: str, length: int | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._label = label
        self._length = length
        self._clock = clock
        self._begun = clock()
        self._shown = sys.stderr.isatty()
        self._done = 0
        self._bar: Any = None

    def reached(self, done: int, length: int | None = None) -> None:
        """So much is done, of `length` if that is known."""
        if not self._shown:
            return
        if self._bar is None:
            if self._clock() - self._begun < MOMENT:
                return
            self._length = self._length if length is None else length
            unknown = (None for _ in ()) if self._length is None else None
            bar: Any = click.progressbar(unknown, length=self._length, label=self._label, file=sys.stderr)
            self._bar = bar
            bar.__enter__()
        self._bar.update(done - self._done)
        self._done = done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, tb)
