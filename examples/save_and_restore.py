"""Save, drop the connection, restore.

    python examples/save_and_restore.py [--host HOST] [--port PORT] [--unix PATH]

The connection is dropped the hard way, with a reset in the middle of things.  A
server that is killed between the two halves makes no difference to the second.
"""

import argparse
import asyncio
import socket
import struct
import sys

from stui_sessions.client import Address, ClientError, connect, find_server


async def save(host: str | None, port: int | None, unix: str | None = None) -> str:
    """Make a session, save in it, and return its id: all that has to be remembered."""
    async with connect(host, port, unix) as client:
        session = await client.create_session("save-and-restore", timeout=600)
        await client.update_session_state(
            session.session_id,
            {"file": "notes.txt", "line": 12},
            workspace_context={"open": ["notes.txt", "todo.txt"]},
        )
        updated = await client.update_session_state(session.session_id, {"line": 13})
        print(f"saved {updated.session_state} as revision {updated.revision}")
    return session.session_id


def drop(server: Address) -> None:
    """Begin a request on a connection and reset it: no session is the worse for it."""
    if server.unix:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(server.unix)
    else:
        sock = socket.create_connection((server.host, server.port))
    sock.sendall(b'{"id": 1, "command": "update_sess')
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    print("dropped a connection")


async def restore(host: str | None, port: int | None, session_id: str, unix: str | None = None) -> None:
    """Get everything back on a new connection, then clean up."""
    async with connect(host, port, unix) as client:
        restored = await client.restore_session(session_id)
        print(f"restored {restored.session_state} and {restored.workspace_context}")
        await client.close_session(session_id)


def main() -> int:
    parser = argparse.ArgumentParser(description="Save, drop the connection, restore.")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--unix", help="the server's Unix socket, instead of host and port")
    asked = parser.parse_args()
    try:
        session_id = asyncio.run(save(asked.host, asked.port, asked.unix))
        drop(find_server(asked.host, asked.port, asked.unix))
        asyncio.run(restore(asked.host, asked.port, session_id, asked.unix))
    except (ClientError, OSError, ValueError) as error:
        print(f"it did not work: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
