"""Where the database's file is."""

import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from stui_sessions.config.database import is_url, shown_url
from stui_sessions.config.settings import Settings, SettingsError
from stui_sessions.errors import quote


def database_path(settings: Settings, environ: Mapping[str, str], platform: str = sys.platform) -> Path | None:
    """Where the database is; None when nothing is to be kept (`:memory:`).  SettingsError if it is no file.

    Not platformdirs: it also obeys `XDG_STATE_HOME` on macOS, differently from version to version, and a
    database must not move when a library is upgraded.
    """
    if settings.db == ":memory:":
        return None
    if is_url(settings.db):
        raise SettingsError(f"db {quote(shown_url(settings.db))} is a PostgreSQL; expected the path of a file here")
    return Path(settings.db) if settings.db else _state_directory(environ, platform) / "sessions.db"


def check_database_place(settings: Settings, environ: Mapping[str, str]) -> None:
    """Refuse a database in a directory that does not exist: more likely a slip than a wish.  Raises SettingsError.

    The default one is made where it is missing; a database at a URL has no place here.
    """
    if is_url(settings.db):
        return
    path = database_path(settings, environ)
    if path is None or path == _state_directory(environ, sys.platform) / "sessions.db":
        return
    try:
        missing = not stat.S_ISDIR(path.parent.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        missing = True
    except OSError:
        return  # opening the database tells more
    if missing:
        shown, directory = quote(shown_url(settings.db)), quote(shown_url(str(path.parent)))
        raise SettingsError(f"db {shown}: {directory} is no directory; make it first, or correct the path")


def _state_directory(environ: Mapping[str, str], platform: str) -> Path:
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    if platform == "darwin":
        return home / "Library" / "Application Support" / "stui-sessions"
    xdg = environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is invalid and is to be ignored.
    base = Path(xdg) if xdg.startswith("/") else home / ".local" / "state"
    return base / "stui-sessions"
