"""What `backup` and `restore` have in common: looking at a database, telling what is wrong with it."""

from pathlib import Path
from typing import Any

from stui_sessions.cli.files import ProgressBar
from stui_sessions.cli.target import Failed, Unable
from stui_sessions.config import is_url
from stui_sessions.errors import StartError, StorageError
from stui_sessions.storage.local import backup


class NoLog:
    """What a look has to say beside its verdict is for a server's log."""

    def debug(self, event: str, **kw: Any) -> None: ...
    def info(self, event: str, **kw: Any) -> None: ...
    def warning(self, event: str, **kw: Any) -> None: ...
    def error(self, event: str, **kw: Any) -> None: ...


def checked(copy: Path, name: Path) -> int:
    """How many sessions are in a copy, once all of it is checked; Failed, with `name` for it, if it is not good."""
    with ProgressBar("check") as progress:
        try:
            return backup.verify(copy, NoLog(), progress.reached)
        except (StartError, StorageError) as error:
            text = str(error).replace(str(copy), str(name))
            raise Failed(f"{name} is no good backup: {text}") from None


def refuse_url(db: str | None, instead: str) -> None:
    """Unable, with what to do `instead`, if the database is a PostgreSQL: it has tools of its own.  No URL is shown."""
    if db is not None and is_url(db):
        raise Unable(f"the database is a PostgreSQL, which has tools of its own for that: {instead}")


def refuse_same(database: Path, file: Path) -> None:
    """Failed if the two are one file."""
    if database.exists() and file.exists() and database.samefile(file):
        raise Failed(f"{file} is the database itself: name another file")
