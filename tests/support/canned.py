"""A server in a thread that gives one prepared answer: for blocking programs, and for what no real server says."""

import socket
import threading
from types import TracebackType
from typing import Self


class CannedServer:
    """Accepts connections; sends `answer` on each once a line has come (at once if `eager`), then closes it.

    With `answer=None` it says nothing and keeps the connection open.
    """

    def __init__(self, answer: bytes | None, *, eager: bool = False) -> None:
        self.received: list[bytes] = []
        self._answer = answer
        self._eager = eager
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if not self._eager:
                self.received.append(sock.makefile("rb").readline())
            if self._answer is None:
                self._open.append(sock)
                continue
            sock.sendall(self._answer)
            sock.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        # Closing alone would not wake the thread from its accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        for sock in self._open:
            sock.close()
