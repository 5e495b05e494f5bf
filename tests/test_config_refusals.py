"""Settings that are refused: each with the words that say what was found and what would be right."""

import os
from pathlib import Path

import pytest

from stui_sessions.config import SETTINGS, SettingsError, load_settings
from stui_sessions.config.settings import KIB, MIB


def env(**values: str) -> dict[str, str]:
    return {f"STUI_SESSIONS_{name.upper()}": value for name, value in values.items()}


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(
    flags: dict[str, object] | None = None, environ: dict[str, str] | None = None, config: Path | None = None
) -> list[str]:
    with pytest.raises(SettingsError) as refusal:
        load_settings(flags or {}, environ or {}, config)
    return str(refusal.value).split("\n")


def test_the_text_names_source_setting_found_and_right() -> None:
    assert problems(environ=env(port="99999")) == [
        "environment STUI_SESSIONS_PORT: 99999 is not a valid port; expected an integer from 0 to 65535"
    ]


@pytest.mark.parametrize(
    ("name", "text", "found", "right"),
    [
        ("port", "-1", "-1 is not", "from 0 to 65535"),
        ("port", "", '"" is not', "an integer"),
        ("port", "7_884", '"7_884"', "an integer"),
        ("port", "80.0", '"80.0"', "an integer"),
        ("port", "9" * 5000, '"999', "an integer"),
        ("max_depth", "7", "7 is not", "from 8 to 512 (levels)"),
        ("max_depth", "513", "513 is not", "from 8 to 512"),
        ("default_timeout", "0", "0 is not", "from 1 to"),
        ("default_timeout", "1h", '"1h"', "(seconds)"),
        ("max_timeout", "3153600001", "3153600001", "3153600000"),
        ("max_sessions_per_client", "0", "0 is", "from 1"),
        ("cleanup_interval", "0", "0 is", "from 1"),
        ("keep_expired", "-1", "-1 is", "from 0"),
        ("create_rate", "-1", "-1 is", "from 0"),
        ("log_rate", "-1", "-1 is", "from 0"),
        ("log_retention", "-1", "-1 is", "from 0"),
        ("log_limit", "1023KiB", '"1023KiB"', "from 1MiB to 1TiB"),
        ("output_limit", "4MB", '"4MB"', "KiB, MiB, GiB or TiB"),
        ("output_limit", "1.5MiB", '"1.5MiB"', "whole number"),
        ("output_limit", "-1", "-1", "from 64KiB to 1TiB"),
        ("output_limit", "2TiB", '"2TiB"', "to 1TiB"),
        ("tcp", "maybe", '"maybe"', "true or false"),
        ("durability", "Full", '"Full"', "one of full, normal"),
        ("log_level", "trace", '"trace"', "one of debug, info, warning, error"),
        ("log_format", "xml", '"xml"', "one of auto, console, json"),
        ("host", "a b", '"a b"', "without spaces"),
        ("unix", "a\0b", '"a\N{REPLACEMENT CHARACTER}b"', "a path"),
        ("db", "\udcff", '"\N{REPLACEMENT CHARACTER}"', "UTF-8"),
        ("deny_clients", "acme corp*", '"acme corp*"', "client id globs"),
        ("deny_clients", "[a,b]", '"[a,b]"', "client id globs"),
        ("allow_clients", "a,,b", '"a,,b"', "client id globs"),
    ],
)
@pytest.mark.parametrize("source", ["environment", "flag"])
def test_a_wrong_text_is_refused(source: str, name: str, text: str, found: str, right: str) -> None:
    (line,) = problems({name: text}) if source == "flag" else problems(environ=env(**{name: text}))
    where = SETTINGS[name].flag if source == "flag" else f"environment {SETTINGS[name].env}"
    before, _, after = line.partition("; expected ")
    assert before.startswith(where + ": ")
    assert found in before
    assert right in after
    assert len(line) < 400


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('port = "80"', '"80" is not a valid port'),
        ("port = true", "true is not"),
        ("port = 80.0", "80.0 is not"),
        ("port = []", "[] is not"),
        ("port = {a = 1}", "a table is not"),
        ("port = 2020-01-01", "2020-01-01 is not"),
        ("port = 0x" + "f" * 5000, "an integer of 20000 bits is not"),
        ("tcp = 1", "1 is not"),
        ('tcp = "true"', '"true" is not'),
        ("unix = 5", "5 is not"),
        ('allow_clients = "a,b"', '"a,b" is not'),
        ('allow_clients = ["a", 5]', '["a", 5] is not'),
        ('allow_clients = ["a,b"]', '["a,b"] is not'),
        ('allow_clients = [""]', '[""] is not'),
        ("log_level = 10", "10 is not"),
        ("output_limit = 1e6", "1000000.0 is not"),
        ('output_limit = "lots"', '"lots" is not'),
    ],
)
def test_a_wrong_toml_value_is_refused(tmp_path: Path, line: str, found: str) -> None:
    config = toml(tmp_path, line)
    (text,) = problems(config=config)
    assert text.startswith(f"file {config}: {line.split()[0]}: {found}")
    assert "; expected " in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", '"prot": there is no such setting; did you mean port?'),
        ("max-depth = 9", '"max-depth": there is no such setting; did you mean max_depth?'),
        ("zzzz = 1", '"zzzz": there is no such setting (found 1); see serve --help'),
        ("[network]\nport = 1", '"network": there is no such setting; the file is flat'),
        ("[[network]]\nport = 1", '"network": there is no such setting (found [a table])'),
        ('"a\\u001bb" = 1', '"a\N{REPLACEMENT CHARACTER}b": there is no such setting'),
        ("port = 1\nport = 2", "is not valid TOML"),
        ("port =", "is not valid TOML"),
        ("port = " + "9" * 5000, "is not valid TOML"),
        ("port = " + "[" * 100_000, "is not valid TOML"),
        ("#" * (MIB + 1), "is longer than 1 MiB"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (line,) = problems(config=toml(tmp_path, text))
    assert words in line
    assert line.isprintable()


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (missing,) = problems(config=tmp_path / "none.toml")
    assert missing.endswith("none.toml: cannot be read: No such file or directory")
    (directory,) = problems(environ={"STUI_SESSIONS_CONFIG": str(tmp_path)})
    assert "(from environment STUI_SESSIONS_CONFIG): cannot be read: Is a directory" in directory
    (tmp_path / "latin").write_bytes(b'host = "\xe9"')
    assert "is not UTF-8" in problems(config=tmp_path / "latin")[0]
    assert "is empty; expected the path" in problems(environ={"STUI_SESSIONS_CONFIG": ""})[0]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    """A pipe that nobody writes to would keep the server waiting, and a device might never end."""
    path = Path("/dev/zero")
    if kind == "pipe":
        path = tmp_path / "pipe"
        os.mkfifo(path)
    (line,) = problems(config=path)
    assert line == f"file {path}: is no regular file; expected a flat TOML file of settings"


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("STUI_SESSIONS_PROT", "did you mean STUI_SESSIONS_PORT?"),
        ("STUI_SESSIONS_port", "did you mean STUI_SESSIONS_PORT?"),
        ("stui_sessions_PORT", "did you mean STUI_SESSIONS_PORT?"),
        ("STUI_SESSIONS_MAX-DEPTH", "did you mean STUI_SESSIONS_MAX_DEPTH?"),
        ("STUI_SESSIONS_XYZZY", "see serve --help"),
        ("STUI_SESSIONS_", "see serve --help"),
    ],
)
def test_an_unknown_variable_is_refused(variable: str, words: str) -> None:
    assert problems(environ={variable: "1"}) == [f"environment {variable}: there is no such setting; {words}"]


def test_an_unknown_flag_is_refused() -> None:
    assert problems({"prot": 1}) == ['flag "prot": there is no such setting; did you mean --port?']


def test_each_source_is_checked_even_where_another_overrides_it(tmp_path: Path) -> None:
    config = toml(tmp_path, "port = 70000\nmax_depth = 1")
    lines = problems({"port": "5", "log_rate": "x"}, env(port="many", max_depth="9"), config)
    assert [line.split(": ")[0] for line in lines] == [
        f"file {config}",
        f"file {config}",
        "environment STUI_SESSIONS_PORT",
        "--log-rate",
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"max_timeout": 3599}, "default_timeout 3600 is above max_timeout 3599; lower it or raise max_timeout"),
        ({"open_timeout": 31_536_001}, "open_timeout 31536001 is above max_timeout 31536000; lower it or raise"),
        ({"tcp": False}, "nothing to listen on"),
        ({"output_limit": MIB + 64 * KIB - 1}, "output_limit 1114111 cannot hold one reply; expected at least 1088KiB"),
        ({"journal_limit": 4 * MIB - 1}, "journal_limit 4194303 cannot hold one commit; expected at least 4MiB"),
        ({"buffer_limit": 2 * MIB - 1}, "buffer_limit 2097151 cannot hold one request; expected at least 2MiB"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(flags: dict[str, object], words: str) -> None:
    (line,) = problems(flags)
    assert line.startswith("settings together: ")
    assert words in line


@pytest.mark.parametrize(
    "flags",
    [
        {"max_timeout": 3600},
        {"open_timeout": 31_536_000},
        {"tcp": False, "unix": "/run/s"},
        {"output_limit": MIB + 64 * KIB},
        {"journal_limit": 4 * MIB},
        {"buffer_limit": 2 * MIB},
    ],
)
def test_settings_that_just_fit_together_are_taken(flags: dict[str, object]) -> None:
    settings = load_settings(flags, {}, None)
    assert all(getattr(settings, name) == value for name, value in flags.items())


def test_all_contradictions_are_told_at_once() -> None:
    assert len(problems({"max_timeout": 1, "tcp": False})) == 2
