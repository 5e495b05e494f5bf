"""How a command is asked: what stands for a parameter that is left out, for null, for a time-out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from msgspec import Raw

from stui_sessions.client.core import Reply

R = TypeVar("R")
State = Mapping[str, Any] | Raw
"""A JSON object to save: a mapping, or JSON text of an object that goes out as it is."""


class Default:
    """Stands for "the time-out that was given to `connect`"."""

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Final = Default()
Seconds = float | Default | None


class Remove:
    """Stands for null, where null takes away what a session has: None is "left out"."""

    def __repr__(self) -> str:
        return "REMOVE"


REMOVE: Final = Remove()


class Asker(ABC):
    """Can ask any command, and knows what arguments stand for."""

    async def _get(self, result: type[R], command: str, parameters: dict[str, Any], reply_timeout: Seconds) -> R:
        """A call of which None means "left out" and REMOVE means null."""
        given = {name: _sent(value) for name, value in parameters.items() if value is not None}
        typed = (await self._ask(command, given, reply_timeout)).typed_result(command)
        assert isinstance(typed, result)
        return typed

    @abstractmethod
    async def _ask(self, command: str, parameters: dict[str, Any], reply_timeout: Seconds) -> Reply:
        """Send a request with exactly these parameters and wait for its reply."""


def _sent(value: Any) -> Any:
    return None if value is REMOVE else value
