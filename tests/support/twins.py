"""Two servers over one database that look like one: a client never knows which of them it talks to."""

from pathlib import Path
from typing import Any, Self

from tests.support.line_client import LineClient
from tests.support.server import START_TIMEOUT, STOP_TIMEOUT, ServerProcess


class Twins(ServerProcess):
    """This server and its twin.  Connections go to them in turn; all that is done to one is done to both.

    Who asks for `port`, `pid` or `spawn` has to do with this one alone.
    """

    def __init__(self, directory: Path, *args: str, **options: Any) -> None:
        super().__init__(directory, *args, **options)
        place = directory / "twin"
        place.mkdir()
        self.twin = ServerProcess(place, **{**options, "db": self.db, "port": 0, "unix": None})
        # The same, also when the test changes them later.
        self.twin.args, self.twin.env = self.args, self.env
        self.twin.stderr_path = self.stderr_path
        self._is_twins_turn = False

    def start(self, timeout: float = START_TIMEOUT) -> Self:
        super().start(timeout)
        self.twin.start(timeout)
        return self

    def send_signal(self, number: int) -> None:
        super().send_signal(number)
        self.twin.send_signal(number)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Wait for both; they end with the same exit code."""
        code = super().wait(timeout)
        assert self.twin.wait(timeout) == code
        return code

    def kill(self) -> None:
        super().kill()
        self.twin.kill()

    @property
    def ports(self) -> list[int]:
        return [self.port, self.twin.port]

    def connect(self, timeout: float = 10.0) -> LineClient:
        self._is_twins_turn = not self._is_twins_turn and self.twin.running
        return (self.twin if self._is_twins_turn else super()).connect(timeout)
