"""`stui-sessions schema --lock`."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from stui_sessions.cli import schema as schema_command
from stui_sessions.cli.main import main
from stui_sessions.commands import REGISTRY
from stui_sessions.protocol.schema import contract


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the locked copy, for once not in the package; nothing is there."""
    path = tmp_path / "contract.json"
    monkeypatch.setattr(schema_command, "LOCKED", path)
    return path


def lock(*flags: str) -> Result:
    return CliRunner().invoke(main, ["schema", "--lock", *flags])


def older(**pong: Any) -> str:
    """The contract as it was when `pong` was described by other keywords."""
    document = json.loads(json.dumps(contract(REGISTRY)))
    document["$defs"]["PingResult"]["properties"]["pong"].update(pong)
    return json.dumps(document)


def test_the_copy_is_what_the_command_prints(locked: Path) -> None:
    result = lock()
    assert result.exit_code == 0
    assert result.stdout == f"{locked} is written: 1.2.0\n"
    assert locked.read_text("utf-8") == CliRunner().invoke(main, ["schema"]).stdout
    assert lock().exit_code == 0


def test_a_change_that_the_version_does_not_tell_is_refused(locked: Path) -> None:
    before = older(type="string")
    locked.write_text(before)
    result = lock()
    assert result.exit_code == 1
    assert "ping.result.pong: type string -> boolean" in result.stderr
    assert "protocol_version is 1.2.0 and must be 2.0.0 or higher" in result.stderr
    assert locked.read_text() == before


def test_an_unreleased_version_may_change(locked: Path) -> None:
    locked.write_text(older(type="string"))
    assert lock("--unreleased").exit_code == 0
    assert json.loads(locked.read_text("utf-8")) == contract(REGISTRY)


def test_other_words_ask_for_no_other_version(locked: Path) -> None:
    locked.write_text(older(description="It says pong."))
    result = lock()
    assert result.exit_code == 0
    assert "ping.result.pong: description says it in other words [wording]\n" in result.stdout
    assert json.loads(locked.read_text("utf-8")) == contract(REGISTRY)


@pytest.mark.parametrize("text", ["", "<<<<<<< ours", "[]"])
def test_a_copy_that_cannot_be_read(locked: Path, text: str) -> None:
    locked.write_text(text)
    result = lock()
    assert result.exit_code == 1
    assert f"cannot read {locked}" in result.stderr
    assert locked.read_text() == text
    assert lock("--unreleased").exit_code == 0
    assert json.loads(locked.read_text("utf-8")) == contract(REGISTRY)


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_command, "LOCKED", tmp_path / "missing" / "contract.json")
    result = lock()
    assert result.exit_code == 1
    assert "cannot write" in result.stderr


@pytest.mark.parametrize("flags", [["--unreleased"], ["--lock", "--markdown"]])
def test_flags_that_do_not_go_together(locked: Path, flags: list[str]) -> None:
    assert CliRunner().invoke(main, ["schema", *flags]).exit_code == 2
    assert not locked.exists()


def test_the_help_tells_what_it_is_for() -> None:
    text = " ".join(CliRunner().invoke(main, ["schema", "--help"]).stdout.split())
    assert "protocol/contract.json" in text
    assert "For a version that has not been released" in text


def test_the_copy_is_in_the_package() -> None:
    place = resources.files("stui_sessions.protocol") / "contract.json"
    assert place.is_file()
    assert Path(str(place)) == schema_command.LOCKED


# -- the client's part


def test_the_client_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {name: (schema_command.CLIENT / name).read_text("utf-8") for name in ("commands.py", "results.py")}
    monkeypatch.setattr(schema_command, "CLIENT", tmp_path)
    result = CliRunner().invoke(main, ["schema", "--client"])
    assert result.exit_code == 0
    assert {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()} == written


def test_a_place_where_the_client_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_command, "CLIENT", tmp_path / "missing")
    result = CliRunner().invoke(main, ["schema", "--client"])
    assert result.exit_code == 1
    assert "cannot write" in result.stderr


@pytest.mark.parametrize("other", [["--lock"], ["--markdown"], ["--write", "README.md"]])
def test_one_thing_at_a_time(other: list[str]) -> None:
    assert CliRunner().invoke(main, ["schema", "--client", *other]).exit_code == 2
