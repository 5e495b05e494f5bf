"""What README.md shows is tried: console blocks, the Python program, the settings file, the unit, the log events."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from stui_sessions import client
from stui_sessions.cli.main import main
from stui_sessions.client import errors
from stui_sessions.config import SETTINGS, load_settings, settings_table
from stui_sessions.domain.entities import EXTERNAL, OWNER, SESSION
from stui_sessions.errors import CODES
from tests.conftest import StartServer
from tests.docs.markdown import ROOT, between, fences, read, section, table
from tests.docs.matching import Names
from tests.support.server import ServerProcess

README = read("README.md")


def the_line(heading: str) -> str:
    """The one line of the first fenced block under a heading, as a program reads it that looks for it."""
    fence = fences(section(README, heading))[0]
    assert fence.language == "sh"
    (line,) = fence.body.splitlines()
    return line


# Run and Test.


def test_run_is_one_line_that_installs_and_serves() -> None:
    make, install, serve = (shlex.split(part) for part in the_line("Run").split("&&"))
    assert make[:3] == ["python3", "-m", "venv"]
    venv = make[3]
    assert install == [f"{venv}/bin/pip", "install", "-q", "."]
    assert serve == [f"{venv}/bin/stui-sessions", "serve"]


def test_what_is_typed_after_the_install_line_is_found(tmp_path: Path) -> None:
    """The install line makes `.venv/bin/stui-sessions`; the other commands are written without that path."""
    venv = shlex.split(the_line("Run").split("&&")[0])[3]
    (activate,) = [fence.body for fence in fences(section(README, "Run"), "sh")[1:]]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / venv)], check=True, timeout=60)
    script = tmp_path / venv / "bin" / "stui-sessions"
    script.write_text("#!/bin/sh\necho it was found\n")
    script.chmod(0o755)
    shell = ["sh", "-c", f"{activate}stui-sessions --version && command -v python"]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines() == ["it was found", str(tmp_path / venv / "bin" / "python")]


def test_every_command_is_written_as_it_can_be_typed() -> None:
    """In blocks that are to be typed, `stui-sessions` is a word of its own, or named by the way to it."""
    typed = [fence.body for language in ("sh", "console") for fence in fences(README, language)]
    named = {word for body in typed for word in re.findall(r"\S*stui-sessions\b", body)}
    assert named <= {"stui-sessions", "$(_STUI_SESSIONS_COMPLETE=bash_source stui-sessions", ".venv/bin/stui-sessions"}
    assert README.index(". .venv/bin/activate") < README.index("\n$ stui-sessions")


def test_test_is_one_line_that_installs_and_tests() -> None:
    make, install, test = (shlex.split(part) for part in the_line("Test").split("&&"))
    venv = make[3]
    assert install == [f"{venv}/bin/pip", "install", "-q", "-e", ".[test]"]
    assert test == [f"{venv}/bin/python", "-m", "pytest"]
    # What the tests import beyond the package's own requirements comes with that extra.
    extra = " ".join(tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]["test"])
    for package in ("pytest", "pytest-asyncio", "hypothesis", "textual"):
        assert package in extra


def test_the_virtual_environments_are_ignored_by_git() -> None:
    assert ".venv*/" in read(".gitignore").splitlines()


# Console blocks.


@pytest.fixture
def shell_env(tmp_path: Path) -> dict[str, str]:
    """An environment in which `stui-sessions` is this package, as pip would install it."""
    script = tmp_path / "bin" / "stui-sessions"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom stui_sessions.cli.main import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return {"PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}


def exchanges(body: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the output that is shown under it."""
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


@pytest.mark.skipif(not shutil.which("nc"), reason="nc is not installed")
def test_the_first_session(server: ServerProcess, shell_env: dict[str, str]) -> None:
    blocks = fences(section(README, "A first session"), "console")
    assert len(blocks) == 2
    names = Names()
    played = 0
    for block in blocks:
        server.kill()  # between the blocks the text says: kill the server and start it again
        server.start()
        for command, expected in exchanges(block.body):
            names.compare(expected, run(names.fill(command), server, shell_env))
            played += 1
    assert played == 6


@pytest.mark.local_store
def test_backup_and_export(server: ServerProcess, shell_env: dict[str, str], tmp_path: Path) -> None:
    server.result("create_session", client_id="me")
    part = section(README, "Backup, restore, export, import")
    names = Names()
    played = 0
    for block in fences(part, "console"):
        for command, expected in exchanges(block.body):
            names.compare(expected, run(f"cd {tmp_path} && {command}", server, shell_env))
            played += 1
    assert played == 4


def run(command: str, server: ServerProcess, shell_env: dict[str, str]) -> str:
    """What a shell prints for `command`, with the server's port in place of the default one."""
    env = {**server.env, **shell_env, "STUI_SESSIONS_PORT": str(server.port)}
    done = subprocess.run(
        ["sh", "-c", command.replace(" 7884", f" {server.port}")], env=env, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# The Python program.


def test_the_python_client(server: ServerProcess) -> None:
    part = section(README, "The Python client")
    (program,) = fences(part, "python")
    (output,) = fences(part, "text")
    assert program.body.count("connect()") == 2
    source = program.body.replace("connect()", f"connect(port={server.port})")
    done = subprocess.run([sys.executable, "-c", source], env=server.env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout == output.body


def test_the_table_of_exceptions() -> None:
    documented = [row[0].strip("`") for row in table(section(README, "The Python client"))]
    real = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.ClientError)
    }
    assert sorted(documented) == sorted(real)
    assert real <= set(client.__all__)


# Settings.


def test_the_table_of_settings_is_in_step() -> None:
    assert between(README, "settings").strip() == settings_table().strip()


def test_the_settings_file_is_valid(tmp_path: Path) -> None:
    (fence,) = fences(README, "toml")
    path = tmp_path / "stui-sessions.toml"
    path.write_text(fence.body)
    assert load_settings({}, {}, path).max_sessions_per_client == 20


def test_the_limits_table_names_settings() -> None:
    rows = table(section(README, "Limits, and what happens at each"))
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert named <= set(SETTINGS)
    assert {name for name in SETTINGS if name.startswith("max_") or name.endswith("_limit")} <= named
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row[1])} <= set(CODES) | set(SETTINGS)


# Command lines, wherever they stand.


def subcommands() -> dict[str, click.Command]:
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    for group in [command for command in found.values() if isinstance(command, click.Group)]:
        found |= {f"{group.name} {name}": command for name, command in group.commands.items()}
    return {name: command for name, command in found.items() if command}


COMMAND_LINE = re.compile(
    r"stui-sessions (serve|call|backup|restore|move|export|import|bench|schema|db \w+)\b([^`\n]*)"
)
DOCUMENTS = ["README.md", "protocol.md", "examples/README.md"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_flag_that_is_shown_exists(name: str) -> None:
    commands = subcommands()
    for subcommand, arguments in COMMAND_LINE.findall(read(name)):
        real = {flag for param in commands[subcommand].params for flag in (*param.opts, *param.secondary_opts)}
        shown = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", arguments)) - {"--help"}
        assert shown <= real, f"stui-sessions {subcommand}{arguments}"


def test_flags_in_the_text_exist() -> None:
    params = [param for command in subcommands().values() for param in command.params]
    real = {flag for param in params for flag in (*param.opts, *param.secondary_opts)}
    shown = set(re.findall(r"`(--[a-z][a-z-]*)", README))
    assert shown
    assert shown <= real


def test_the_unit_starts_the_server(start_server: StartServer, tmp_path: Path) -> None:
    (unit,) = fences(README, "ini")
    (line,) = re.findall(r"^ExecStart=(.*)$", unit.body, re.MULTILINE)
    program, serve, *flags = line.split()
    assert program.endswith("/bin/stui-sessions")
    assert serve == "serve"
    at = flags.index("--db")
    assert flags[at + 1] == "/var/lib/stui-sessions/sessions.db"
    del flags[at : at + 2]
    assert start_server(*flags).result("ping") == {"pong": True}


def test_the_completion_line(shell_env: dict[str, str]) -> None:
    (fence,) = [f for f in fences(README, "sh") if "COMPLETE" in f.body]
    bash = shutil.which("bash")
    if not bash:
        pytest.skip("bash is not installed")
    script = f"{fence.body}complete -p stui-sessions"
    env: dict[str, Any] = {**os.environ, **shell_env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([bash, "-c", script], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "stui-sessions" in done.stdout


# Logs.

EVENT = re.compile(r"""\b(?:(?:_?log|logger)\.(?:warning|error)|_warn)\(\s*(f?)"([^"]+)\"""")
KINDS = (SESSION, OWNER, EXTERNAL)
"""Of entities: some events begin with that of the one they are about."""


def test_every_warning_is_documented() -> None:
    """Every event at warning or error that the server can log has a row, and every row is such an event."""
    sources = (path.read_text() for path in (ROOT / "stui_sessions").rglob("*.py"))
    found = [match for source in sources for match in EVENT.findall(source)]
    logged = {event for formatted, event in found if not formatted}
    logged |= {event.replace("{key[1]}", kind) for formatted, event in found if formatted for kind in KINDS}
    assert not [event for event in logged if "{" in event]
    rows = [event for row in table(section(README, "Logs")) for event in re.findall(r"`([^`]+)`", row[0])]
    assert len(rows) == len(set(rows)), "an event has two rows"
    assert set(rows) - {"storage.recovered"} == logged


# The code.


def test_the_layout_is_the_real_one() -> None:
    (fence,) = fences(section(README, "The code"), "text")
    shown = {line.split()[0] for line in fence.body.splitlines()}
    assert all((ROOT / path).exists() for path in shown)
    packages = {f"stui_sessions/{path.parent.name}/" for path in (ROOT / "stui_sessions").glob("*/__init__.py")}
    assert packages == {path for path in shown if path.endswith("/")}


def test_every_figure_can_be_seen_again() -> None:
    """The commands beside the figures name benchmarks, tests and variables that exist."""
    performance = section(README, "Performance")
    modules = re.findall(r"-m (tests\.benchmarks\.\w+)", performance)
    files = (ROOT / "tests" / "benchmarks").glob("[a-z]*.py")
    commands = [file.stem for file in files if "__main__" in file.read_text()]
    assert sorted(modules) == sorted(f"tests.benchmarks.{name}" for name in commands)
    runs = re.findall(r"(STUI_TEST_\w+)=\d+ python -m pytest -s (\S+\.py)", performance)
    assert len(runs) == 4
    for variable, path in runs:
        assert variable in (ROOT / path).read_text(), (variable, path)
