"""A pipe that the logs are sent into, and a clock for their rate."""

import contextlib
import json
import os
from typing import Any

import structlog

from stui_sessions.logs import Logs, configure


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pipe:
    """A pipe to log into; `lines` takes out what has arrived."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.clock = Clock()
        self.opened: list[Logs] = []

    def configure(self, level: str = "info", log_format: str = "json", rate: int = 0) -> Logs:
        opened = configure(level=level, log_format=log_format, rate=rate, fd=self.writer, clock=self.clock)
        self.opened.append(opened)
        return opened

    def read(self) -> str:
        data = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.reader, 1 << 20):
                data += piece
        return data.decode()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read().splitlines()]

    def close(self) -> None:
        for opened in self.opened:
            opened.close()
        structlog.reset_defaults()
        for fd in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                os.close(fd)


def log() -> Any:
    return structlog.get_logger()
