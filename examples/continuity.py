"""A client that comes back, whatever happens in between.

    python examples/continuity.py

It starts a server of its own, with a database in a temporary directory, and tells
what happens: work, a dropped connection, a server that is killed, another process
that goes on where the first one was; a second client that sees nothing of it; a
title, a list, a deletion that is taken back.

Nobody remembers a session id here.  A client says who it is, and `open_session`
resumes its session or makes one.
"""

import asyncio
import os
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from stui_sessions.client import Client, SessionNotFound, connect

HOST = "127.0.0.1"
USER = "ada"


class Server:
    """A server in a process of its own, which can be killed and started again."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it on a free port, and wait until it listens."""
        flags = ["--host", HOST, "--port", "0", "--db", str(self._database)]
        # Settings in the environment are for another server.
        env = {name: value for name, value in os.environ.items() if not name.startswith("STUI_SESSIONS_")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stui_sessions", "serve", *flags],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # listening tcp://127.0.0.1:40123
        if not line.startswith("listening "):
            raise SystemExit("the server did not start")
        self.port = int(line.rpartition(":")[2])

    def kill(self) -> None:
        """SIGKILL: it has no chance to write anything down."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


async def work(client: Client) -> None:
    """The laptop opens its session, saves state in it, and gives it a title."""
    session = await client.open_session(client_id="laptop", user_id=USER)
    print("laptop:", session.message)
    saved = await client.update_session_state(session.session_id, {"file": "talk.txt", "line": 12})
    print("laptop: saved", saved.session_state, "as revision", saved.revision)
    told = await client.update_session_title(session.session_id, title="  The talk\u200b ")
    print(f"laptop: the title is {told.title!r}")


def drop(port: int) -> None:
    """Begin another update on a connection, and reset it in the middle of the line."""
    sock = socket.create_connection((HOST, port))
    sock.sendall(b'{"id": 1, "command": "update_sess')
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    print("laptop: dropped a connection in the middle of a request")


async def come_back(client: Client) -> None:
    """What another process does, to which nothing was handed on but the server's port."""
    session = await client.open_session(client_id="laptop", user_id=USER)
    print("a new process:", session.message)
    print(f"a new process: {session.title!r} holds {session.session_state} at revision {session.revision}")


async def be_somebody_else(client: Client) -> None:
    """A second client of the same user has a session of its own, and sees only that."""
    session = await client.open_session(client_id="phone", user_id=USER, title="Shopping")
    print("phone:", session.message)
    print("phone: it holds", session.session_state)
    for client_id in ("laptop", "phone"):
        listed = await client.list_client_sessions(client_id, user_id=USER)
        print(f"{client_id}: has {listed.session_count} session")


async def tidy_up(client: Client) -> None:
    """Look at all sessions of the user, delete one, and think better of it."""
    await tell_list(client)
    # What a person remembers is enough to find it, as long as only one session can be meant.
    talk = await client.resolve_session("The talk")
    await client.delete_session(talk.session_id)
    print("deleted 'The talk'")
    await tell_list(client)
    try:
        await client.restore_session(talk.session_id)
    except SessionNotFound as error:
        print("restoring it:", error.code)
    back = await client.undelete_session(talk.session_id)
    restored = await client.restore_session(talk.session_id)
    print(f"undeleted {back.title!r}, which holds {restored.session_state}")
    await tell_list(client)


async def tell_list(client: Client) -> None:
    """Print the titles of the user's live sessions, the oldest first."""
    page = await client.list_sessions(user_id=USER, sort="created_at", order="asc")
    print(f"sessions of {USER}:", ", ".join(f"{row.title!r} ({row.client_id})" for row in page.sessions))


async def main(port: int, *steps: str) -> None:
    """Take each step on a connection of its own."""
    for step in steps:
        async with connect(HOST, port) as client:
            await STEPS[step](client)


STEPS = {"work": work, "come_back": come_back, "be_somebody_else": be_somebody_else, "tidy_up": tidy_up}


def story(directory: Path) -> None:
    """All of it."""
    server = Server(directory / "sessions.db")
    try:
        asyncio.run(main(server.port, "work"))
        drop(server.port)
        server.kill()
        print("the server was killed")
        server.start()
        print("the server was started again")
        subprocess.run([sys.executable, __file__, str(server.port)], check=True)
        asyncio.run(main(server.port, "be_somebody_else", "tidy_up"))
    finally:
        server.kill()


if __name__ == "__main__":
    # Lines of two processes come in the order in which they are printed, also into a file.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if len(sys.argv) == 2:
        asyncio.run(main(int(sys.argv[1]), "come_back"))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            story(Path(temporary))
