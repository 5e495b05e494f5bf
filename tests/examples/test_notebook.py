"""The notebook, through Textual's own driver, and once as the real program in a terminal."""

import asyncio
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from functools import partial

from examples.notebook import Notebook
from stui_sessions.client import connect
from tests.support.server import ROOT, ServerProcess
from tests.support.waiting import until


def notebook(server: ServerProcess, name: str = "test") -> Notebook:
    return Notebook(name, partial(connect, server.host, server.port, timeout=5))


async def shows(probe: Callable[[], bool], what: Callable[[], object]) -> None:
    """Wait until the screen is as it should be; the app runs meanwhile."""
    deadline = time.monotonic() + 15
    while not probe():
        assert time.monotonic() < deadline, f"waited in vain; it shows {what()!r}"
        await asyncio.sleep(0.01)


async def says(app: Notebook, beginning: str) -> None:
    await shows(lambda: app.sub_title.startswith(beginning), lambda: app.sub_title)


async def is_kept(app: Notebook, server: ServerProcess, text: str) -> None:
    """The server holds exactly this text."""
    await shows(lambda: kept(server, app.title) == text, lambda: (app.sub_title, kept(server, app.title)))


def kept(server: ServerProcess, name: str = "test") -> str | None:
    sessions = server.result("list_client_sessions", client_id=f"notebook:{name}")["sessions"]
    if not sessions:
        return None
    state = server.result("restore_session", session_id=sessions[0]["session_id"])["session_state"]
    return str(state.get("text", ""))


async def test_text_and_cursor_survive_closing_it(server: ServerProcess) -> None:
    app = notebook(server)
    async with app.run_test() as pilot:
        await says(app, "connected")
        await pilot.press("h", "e", "l", "l", "o", "enter", "y", "o", "u", "left")
        await is_kept(app, server, "hello\nyou")
        await shows(lambda: app._kept == app._content(), lambda: app._kept)
    # The terminal is gone, and nobody has quit in order.
    app = notebook(server)
    async with app.run_test() as pilot:
        await says(app, "connected")
        assert app.text.text == "hello\nyou"
        assert app.text.cursor_location == (1, 2)
        await pilot.press("X")
        await is_kept(app, server, "hello\nyoXu")
    assert server.result("list_client_sessions", client_id="notebook:test")["session_count"] == 1


async def test_quitting_saves_the_last_words(server: ServerProcess) -> None:
    app = notebook(server)
    async with app.run_test() as pilot:
        await says(app, "connected")
        await pilot.press("l", "a", "s", "t")
        await pilot.press("ctrl+q")
    assert kept(server) == "last"


async def test_it_survives_a_killed_server(server: ServerProcess) -> None:
    app = notebook(server)
    async with app.run_test() as pilot:
        await says(app, "connected")
        await pilot.press("o", "n", "e")
        await says(app, "saved")
        server.kill()
        await pilot.press("t", "w", "o")
        await says(app, "offline")
        assert app.text.text == "onetwo", "typing must go on"
        await asyncio.to_thread(server.start)
        await says(app, "saved")
        await is_kept(app, server, "onetwo")
        await pilot.press("!")
        await is_kept(app, server, "onetwo!")
    assert server.result("list_client_sessions", client_id="notebook:test")["session_count"] == 1


async def test_it_notices_a_dead_server_without_typing(server: ServerProcess) -> None:
    app = notebook(server)
    async with app.run_test():
        await says(app, "connected")
        server.kill()
        await says(app, "offline")


async def test_it_waits_for_a_server_and_takes_no_text_before(server: ServerProcess) -> None:
    server.kill()
    app = notebook(server)
    async with app.run_test() as pilot:
        await says(app, "offline")
        await pilot.press("x")
        assert app.text.text == ""
        await asyncio.to_thread(server.start)
        await says(app, "connected")
        await pilot.press("y")
        await is_kept(app, server, "y")


async def test_a_lost_session_is_made_anew_with_the_text(server: ServerProcess) -> None:
    app = notebook(server)
    async with app.run_test() as pilot:
        await says(app, "connected")
        await pilot.press("a")
        await is_kept(app, server, "a")
        session = server.result("list_client_sessions", client_id="notebook:test")["sessions"][0]
        server.result("close_session", session_id=session["session_id"])
        await pilot.press("b")
        await is_kept(app, server, "ab")


async def test_leaving_without_saving_takes_a_second_press(server: ServerProcess) -> None:
    app = notebook(server)
    async with app.run_test() as pilot:
        await says(app, "connected")
        server.kill()
        await pilot.press("x")
        await says(app, "offline")
        await pilot.press("ctrl+q")
        await shows(lambda: app._was_asked_to_leave, lambda: app.sub_title)
        assert app.is_running
        await pilot.press("ctrl+q")
        await shows(lambda: not app.is_running, lambda: app.sub_title)


async def test_a_refusal_is_shown(server: ServerProcess) -> None:
    app = notebook(server, "no such/name")
    async with app.run_test():
        await says(app, "not saved: client_id must be")


async def test_two_notebooks_have_two_texts(server: ServerProcess) -> None:
    for name in ("one", "two"):
        app = notebook(server, name)
        async with app.run_test() as pilot:
            await says(app, "connected")
            assert app.text.text == ""
            await pilot.press(*name)
            await is_kept(app, server, name)


def test_the_program_in_a_terminal(server: ServerProcess) -> None:
    """The real thing: typed into a terminal that is then taken away."""
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, str(ROOT / "examples" / "notebook.py"), "pty", "--port", str(server.port)]
    env = {**server.env, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        command, env=env, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    os.set_blocking(screen, False)
    try:
        until(lambda: drained(screen) and kept(server, "pty") == "", "the notebook to open its session", 20)
        until(lambda: drained(screen) and typed(screen) and "k" in (kept(server, "pty") or ""), "a key to be saved", 20)
    finally:
        process.kill()
        process.wait()
        os.close(screen)
    assert set(kept(server, "pty") or "") == {"k"}


def drained(screen: int) -> bool:
    """Read what the program draws, or it would stop drawing."""
    try:
        while os.read(screen, 65536):
            pass
    except (BlockingIOError, OSError):
        pass
    return True


def typed(screen: int) -> bool:
    """Press a key; again each time, because the first may come before the text takes any."""
    return os.write(screen, b"k") == 1
