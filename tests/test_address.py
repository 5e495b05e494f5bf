"""Where clients find the server: arguments, environment, settings file, defaults; and which kind of address wins."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stui_sessions.client import connect
from stui_sessions.config import Address, SettingsError, find_server
from tests.conftest import StartServer
from tests.support.server import ROOT, ServerProcess, environment

HERE = "127.0.0.1"


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """A maker of environments that name a settings file of this text."""

    def make(text: str) -> dict[str, str]:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return {"STUI_SESSIONS_CONFIG": str(path)}

    return make


def env(**values: str) -> dict[str, str]:
    return {f"STUI_SESSIONS_{name.upper()}": value for name, value in values.items()}


@pytest.mark.parametrize(
    ("said", "environ", "file", "found"),
    [
        ({}, {}, "", Address(HERE, 7884)),
        ({}, {}, "port = 5\nmax_depth = 'nonsense'\nof_the_future = 1", Address(HERE, 5)),
        ({}, {}, 'host = "h"\nport = 5', Address("h", 5)),
        ({}, {}, 'host = "h"\nport = 5\nunix = "/s"', Address(unix="/s")),
        ({}, {"port": "6"}, 'host = "h"\nport = 5', Address("h", 6)),
        ({}, {"port": "6"}, 'host = "h"\nport = 5\nunix = "/s"', Address("h", 6)),
        ({}, {"port": "6", "unix": "/e"}, "port = 5", Address(unix="/e")),
        ({}, {"unix": ""}, 'port = 5\nunix = "/s"', Address(HERE, 5)),
        ({}, {"unix": "", "host": "e"}, "port = 5", Address("e", 5)),
        ({"port": 7}, {"unix": "/e", "host": "e"}, 'unix = "/s"', Address("e", 7)),
        ({"host": "x"}, {"unix": "/e"}, 'port = 5\nunix = "/s"', Address("x", 5)),
        ({"host": "x", "port": 7}, {"port": "nonsense"}, "nonsense", Address("x", 7)),
        ({"unix": "/x"}, {"port": "nonsense"}, "nonsense", Address(unix="/x")),
        ({"unix": "/x", "port": 7}, {}, "", Address(unix="/x")),
        ({}, {"host": "0.0.0.0"}, "", Address(HERE, 7884)),
        ({}, {}, 'host = "::"', Address("::1", 7884)),
        ({}, {}, 'host = ""', Address(HERE, 7884)),
    ],
)
def test_the_nearest_source_that_names_an_address_decides(
    config: Callable[[str], dict[str, str]],
    said: dict[str, Any],
    environ: dict[str, str],
    file: str,
    found: Address,
) -> None:
    assert find_server(**said, environ=env(**environ) | config(file)) == found


@pytest.mark.parametrize(
    ("environ", "file", "message"),
    [
        ({"port": "x"}, "", 'environment STUI_SESSIONS_PORT: "x" is not a valid port; expected an integer'),
        ({"port": "0"}, "", "port 0 is a free one that only the server knows"),
        ({}, "port = 0", "port 0 is a free one that only the server knows"),
        ({}, "port = true", "settings.toml: port: true is not a valid port"),
        ({}, "port =", r"settings.toml \(from environment STUI_SESSIONS_CONFIG\): is not valid TOML"),
        ({"config": ""}, "", "environment STUI_SESSIONS_CONFIG: is empty"),
        ({"config": "/none.toml"}, "", "cannot be read: No such file"),
        ({"config": "/dev/zero"}, "", "is no regular file"),
    ],
)
def test_what_names_no_address_is_refused(
    config: Callable[[str], dict[str, str]], environ: dict[str, str], file: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        find_server(environ=config(file) | env(**environ))


WAYS = ("port", "unix", "file", "file-unix")


def settings_of(server: ServerProcess, way: str) -> dict[str, str]:
    """An environment that names the server in this way."""
    if way in ("port", "unix"):
        return env(**{way: str(getattr(server, way))})
    file = server.directory / "clients.toml"
    file.write_text(f"port = {server.port}\n" if way == "file" else f'port = 1\nunix = "{server.unix}"\n')
    return env(config=str(file))


@pytest.fixture
def both(start_server: StartServer, tmp_path: Path) -> ServerProcess:
    return start_server(unix=tmp_path / "s")


async def test_connect_finds_it(both: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    for way in WAYS:
        with monkeypatch.context() as patch:
            for name in ("HOST", "PORT", "UNIX", "CONFIG"):
                patch.delenv(f"STUI_SESSIONS_{name}", raising=False)
            for name, value in settings_of(both, way).items():
                patch.setenv(name, value)
            async with connect() as client:
                assert client.address.startswith("unix://" if "unix" in way else "tcp://")
                assert (await client.ping()).pong
            async with connect(HERE, both.port) as client:
                assert client.address == f"tcp://{HERE}:{both.port}"


@pytest.mark.parametrize("way", WAYS)
def test_commands_and_examples_find_it(both: ServerProcess, way: str) -> None:
    bench = ["bench", "--json", "--duration", "0.1", "--sessions", "1", "--connections", "1"]
    commands = [["-m", "stui_sessions", *words] for words in (["call", "ping"], ["export"], bench)]
    for command in (*commands, [str(ROOT / "examples" / "save_and_restore.py")]):
        done = subprocess.run(
            [sys.executable, *command], cwd=both.directory, env=environment(both.directory, settings_of(both, way)),
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if "bench" in command:
            assert json.loads(done.stdout)["target"].startswith("unix://" if "unix" in way else "tcp://")


def test_a_wrong_environment_is_bad_usage(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stui_sessions", "call", "ping"], env=environment(tmp_path, env(port="x")),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("Error: environment STUI_SESSIONS_PORT: ")
