"""A full-screen notebook that survives closing the terminal and killing the server.

    python examples/notebook.py [NAME] [--host HOST] [--port PORT] [--unix PATH]

Whatever you type is saved by itself.  Close the terminal, kill the server, come
back: the text and the cursor are where they were.  There is no file to save and
no id to remember: the client id is made from the notebook's name, and the session
is found by listing that client's sessions.

While there is no connection you can go on typing; the text is saved when the
server is back.  With the same notebook open in two terminals, the one that typed
last wins.  Needs Textual: pip install '.[examples]'
"""

import argparse
import asyncio
from collections.abc import Callable
from typing import Any

from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.widgets import Footer, Header, TextArea

from stui_sessions.client import Client, ClientError, SessionNotFound, SessionServerError, connect

KEEP = 30 * 86_400
"""Seconds without use after which the server forgets a notebook."""

PAUSE = 0.2
"""Seconds of typing that are saved together."""

HEARTBEAT = 2.0
"""Seconds without typing after which we look whether the server is still there."""

SLOWEST_RETRY = 5.0
PATIENCE = 2.0
"""Seconds that quitting waits for the last words to be saved."""

Connect = Callable[[], Any]
"""Makes a connection: `connect` with its arguments filled in."""


class Notebook(App[None]):
    """One text, kept in one session.  The subtitle tells what is known of connection and text."""

    BINDINGS = [Binding("ctrl+q", "leave", "Save and quit", priority=True)]  # noqa: RUF012 - Textual's own way

    def __init__(self, name: str, connect: Connect) -> None:
        super().__init__()
        self.title = name
        self.sub_title = "connecting"
        self._client_id = f"notebook:{name}"
        self._connect = connect
        self._session_id: str | None = None
        self._kept: dict[str, Any] | None = None
        """What the server holds, as far as we know.  None until it was restored: nothing may be typed before."""
        self._changed = asyncio.Event()
        self._saved = asyncio.Event()
        self._was_asked_to_leave = False

    # The screen.

    def compose(self) -> ComposeResult:
        yield Header()
        yield TextArea(read_only=True)
        yield Footer()

    def on_mount(self) -> None:
        self.text.focus()
        self.keep_session()

    @property
    def text(self) -> TextArea:
        return self.query_one(TextArea)

    def on_text_area_changed(self) -> None:
        self._note_change()

    def on_text_area_selection_changed(self) -> None:
        self._note_change()

    def _note_change(self) -> None:
        if self._kept is not None and self._kept != self._content():
            self._saved.clear()
            self._changed.set()

    async def action_leave(self) -> None:
        """Quit once the last words are saved; if they cannot be, only when asked again."""
        try:
            async with asyncio.timeout(PATIENCE):
                if self._kept is not None:
                    await self._saved.wait()
        except TimeoutError:
            if not self._was_asked_to_leave:
                self._was_asked_to_leave = True
                self.notify("Not saved. Press the key again to leave all the same.", severity="warning")
                return
        self.exit()

    # The session.

    @work(exclusive=True)
    async def keep_session(self) -> None:
        """Be connected as long as we run, and save what changes."""
        retry = PAUSE
        while True:
            try:
                async with self._connect() as client:
                    await self._open(client)
                    retry = PAUSE
                    await self._save_changes(client)
            except SessionNotFound:
                self._lose_session()
                continue
            except SessionServerError as error:
                self.sub_title = f"not saved: {error}"
            except (ClientError, OSError) as error:
                self.sub_title = f"offline: {error}"
            await asyncio.sleep(retry)
            retry = min(2 * retry, SLOWEST_RETRY)

    async def _open(self, client: Client) -> None:
        """Find our session, or make one; show what it holds unless we have the text already."""
        if self._session_id is None:
            self._session_id = await self._find(client)
        if self._kept is None:
            restored = await client.restore_session(self._session_id)
            self._show(restored.session_state)
        self.sub_title = "connected"

    async def _find(self, client: Client) -> str:
        """The oldest session of this notebook, so that two terminals agree on one; a new one if there is none."""
        listed = await client.list_client_sessions(self._client_id)
        if listed.sessions:
            return listed.sessions[0].session_id
        created = await client.create_session(self._client_id, timeout=KEEP)
        return created.session_id

    def _lose_session(self) -> None:
        """It expired while we were away: what we have goes into another one."""
        self._session_id = None
        if self._kept is not None:
            self._kept = {}
            self._note_change()

    def _show(self, state: dict[str, Any]) -> None:
        text = self.text
        text.load_text(state.get("text", ""))
        row, column = state.get("cursor", (0, 0))
        text.move_cursor((row, column))
        text.read_only = False
        self._kept = self._content()
        self._saved.set()

    def _content(self) -> dict[str, Any]:
        return {"text": self.text.text, "cursor": list(self.text.cursor_location)}

    async def _save_changes(self, client: Client) -> None:
        """Save whenever something changed; ends with the error that ends the connection."""
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._changed.wait()
            except TimeoutError:
                await client.ping()
                continue
            await asyncio.sleep(PAUSE)
            await self._save(client)

    async def _save(self, client: Client) -> None:
        assert self._session_id is not None
        content = self._content()
        saved = await client.update_session_state(self._session_id, content)
        # Only now: after an error it is still to be saved.
        self._kept = content
        self._changed.clear()
        self._saved.set()
        self.sub_title = f"saved as revision {saved.revision}"
        self._note_change()  # typed meanwhile


def main() -> None:
    parser = argparse.ArgumentParser(description="A notebook that survives a closed terminal and a killed server.")
    parser.add_argument("name", nargs="?", default="notes", help="letters, digits and . _ : @ -")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--unix", help="the server's Unix socket, instead of host and port")
    asked = parser.parse_args()
    Notebook(asked.name, lambda: connect(asked.host, asked.port, asked.unix, timeout=5)).run()


if __name__ == "__main__":
    main()
