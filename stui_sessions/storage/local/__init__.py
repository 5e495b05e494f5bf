"""The default store: log files of its own, and SQLite tables that are written behind."""

from stui_sessions.storage.local.log import Durability
from stui_sessions.storage.local.store import LocalStore
from stui_sessions.storage.local.writebehind import Limits

__all__ = ["Durability", "Limits", "LocalStore"]
