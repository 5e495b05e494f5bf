"""Puts the server together.  The one place that chooses concrete classes."""

from stui_sessions.app.server import App, run

__all__ = ["App", "run"]
