"""`serve`: every setting is a flag, refusals go to stderr, exit codes mean what they say."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from stui_sessions import __version__
from stui_sessions.cli.main import COMMANDS, main
from stui_sessions.cli.serve import serve
from stui_sessions.config import SETTINGS, Setting, Settings, SettingsError
from stui_sessions.errors import StartError

Reload = Callable[[], tuple[Settings, list[str]]]


class App:
    """Stands in for `server.app`: keeps what it was run with."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.reload: Reload | None = None
        self.answer: int | Exception = 0

    def run(self, settings: Settings, reload: Reload) -> int:
        self.settings, self.reload = settings, reload
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("STUI_SESSIONS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    made = App()
    module: Any = ModuleType("stui_sessions.app")
    module.run = made.run
    monkeypatch.setitem(sys.modules, "stui_sessions.app", module)
    return made


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["serve", *arguments])


def test_help_lists_every_setting_with_meaning_and_default() -> None:
    result = CliRunner().invoke(main, ["serve", "--help"], terminal_width=10_000)
    assert result.exit_code == 0
    words = " ".join(result.output.split())
    for row in SETTINGS.values():
        assert f" {row.flags.replace('/', ' / ')} " in words
        assert row.meaning.replace("`", "") in words
        assert f"[default: {row.default_text or 'empty'}" in words
    assert "--config PATH" in words
    assert "STUI_SESSIONS_MAX_DEPTH" in words


def test_help_marks_what_a_reload_applies() -> None:
    options = {option.name: option for option in serve.params if isinstance(option, click.Option)}
    for row in SETTINGS.values():
        assert ("reload]" in (options[row.name].help or "")) == row.reload


def test_without_flags_the_defaults_run(app: App) -> None:
    result = run()
    assert (result.exit_code, result.output) == (0, "")
    assert app.settings == Settings()


def test_flags_environment_and_file_reach_the_server(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "s.toml"
    config.write_text("port = 1\nmax_depth = 10\nlog_rate = 7\ninsecure = true")
    monkeypatch.setenv("STUI_SESSIONS_PORT", "2")
    monkeypatch.setenv("STUI_SESSIONS_MAX_DEPTH", "20")
    flags = "--port 3 --no-tcp --no-insecure --unix s.sock --deny-clients a,b --max-state-bytes 64KiB"
    assert run("--config", str(config), *flags.split()).exit_code == 0
    assert app.settings == Settings(
        port=3,
        max_depth=20,
        log_rate=7,
        tcp=False,
        unix="s.sock",
        deny_clients=("a", "b"),
        max_state_bytes=65_536,
    )


def another(row: Setting) -> tuple[str, Any]:
    """A value that is not the default, as typed and as set."""
    if row.kind in ("integer", "size"):
        value = row.default + 1
        return str(value), value
    if row.kind == "choice":
        value = next(choice for choice in row.choices if choice != row.default)
        return value, value
    if row.kind == "list":
        return "a*", ("a*",)
    return ("other", "other") if row.name == "db_schema" else ("127.0.0.2", "127.0.0.2")


@pytest.mark.parametrize("name", SETTINGS)
def test_every_flag_reaches_its_setting(app: App, name: str) -> None:
    row = SETTINGS[name]
    if row.kind == "switch":
        flags, value = ["--unix=s", row.flags.split("/")[bool(row.default)]], not row.default
    else:
        text, value = another(row)
        flags = [f"{row.flag}={text}"]
    assert run(*flags).exit_code == 0
    assert app.settings is not None
    assert getattr(app.settings, name) == value


def test_wrong_settings_are_told_on_stderr_and_exit_with_2(app: App) -> None:
    result = run("--port", "99999", "--max-depth", "1")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "stui-sessions: --port: 99999 is not a valid port; expected an integer from 0 to 65535",
        "stui-sessions: --max-depth: 1 is not a valid max_depth; expected an integer from 8 to 512 (levels)",
    ]
    assert app.settings is None


def test_an_exposed_address_exits_with_2_before_anything_runs(app: App) -> None:
    result = run("--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "--insecure" in result.stderr
    assert app.settings is None
    assert run("--host", "0.0.0.0", "--insecure").exit_code == 0
    assert app.settings is not None


def test_an_unknown_flag_exits_with_2(app: App) -> None:
    result = run("--prot", "1")
    assert result.exit_code == 2
    assert "--port" in result.stderr
    assert app.settings is None


@pytest.mark.parametrize(
    ("answer", "code", "stderr"),
    [
        (0, 0, ""),
        (3, 3, ""),
        (StartError("port 7884 is taken\nby \x07someone"), 1, "stui-sessions: port 7884 is taken"),
        (SettingsError("no such interface"), 2, "stui-sessions: no such interface"),
    ],
)
def test_exit_codes(app: App, answer: int | Exception, code: int, stderr: str) -> None:
    app.answer = answer
    result = run()
    assert result.exit_code == code
    assert result.stderr.startswith(stderr)
    assert "\x07" not in result.stderr
    assert all(line.startswith("stui-sessions: ") for line in result.stderr.splitlines())


def test_reload_reads_the_sources_again(app: App, tmp_path: Path) -> None:
    config = tmp_path / "s.toml"
    config.write_text("create_rate = 1")
    run("--config", str(config), "--max-depth", "9")
    assert app.reload is not None
    config.write_text("create_rate = 2\nmax_depth = 10\nport = 5")
    settings, restart = app.reload()
    assert (settings.create_rate, settings.max_depth, settings.port, restart) == (2, 9, 7884, ["port"])
    config.write_text("create_rate = -2")
    with pytest.raises(SettingsError):
        app.reload()


# The group.


def test_the_overview_lists_every_command_without_importing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stui_sessions.cli.main.import_module", lambda name: pytest.fail(f"imported {name}"))
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert set(COMMANDS) == {
        *("serve", "call", "backup", "restore", "move", "db", "export", "import", "bench", "schema"),
    }
    for name, (_, text) in COMMANDS.items():
        assert f"  {name} " in result.output
        assert text in result.output
    assert [item.value for item in main.shell_complete(click.Context(main), "s")] == ["serve", "schema"]


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.output == f"stui-sessions, version {__version__}\n"


def test_an_unknown_command_exits_with_2() -> None:
    result = CliRunner().invoke(main, ["srve"])
    assert result.exit_code == 2
    assert "srve" in result.stderr


def test_choices_are_completed() -> None:
    option = next(option for option in serve.params if option.name == "log_level")
    found = option.shell_complete(click.Context(serve), "")
    assert [item.value for item in found] == ["debug", "info", "warning", "error"]


def test_python_dash_m_is_the_command_and_its_help_loads_no_server() -> None:
    code = (
        "import sys, runpy; sys.argv = ['stui-sessions', 'serve', '--help']\n"
        "try: runpy.run_module('stui_sessions', run_name='__main__')\n"
        "finally: print(sorted({'asyncio', 'structlog', 'aiosqlite'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "--max-depth" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
