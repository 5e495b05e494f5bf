"""Settings: one Struct, four sources (defaults < file < environment < flags), checked whole at start."""

from stui_sessions.config.address import Address, find_server
from stui_sessions.config.database import is_url, shown_url
from stui_sessions.config.docs import settings_rows, settings_table
from stui_sessions.config.exposure import check_exposure
from stui_sessions.config.place import check_database_place, database_path
from stui_sessions.config.settings import SETTINGS, Setting, Settings, SettingsError
from stui_sessions.config.sources import load_settings, reload_settings

__all__ = [
    "SETTINGS",
    "Address",
    "Setting",
    "Settings",
    "SettingsError",
    "check_database_place",
    "check_exposure",
    "database_path",
    "find_server",
    "is_url",
    "load_settings",
    "reload_settings",
    "settings_rows",
    "settings_table",
    "shown_url",
]
