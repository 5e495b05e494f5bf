"""Settings: what each source may say, which one wins, and what is refused with which words."""

import socket
from pathlib import Path
from typing import Any

import pytest

from stui_sessions.config import (
    SETTINGS,
    Settings,
    SettingsError,
    check_database_place,
    check_exposure,
    database_path,
    load_settings,
    reload_settings,
    settings_rows,
    settings_table,
)
from stui_sessions.config.settings import GIB, KIB, MIB, size_text
from stui_sessions.errors import StartError

DOCUMENTED = {
    "host": "127.0.0.1",
    "port": 7884,
    "tcp": True,
    "unix": "",
    "db": "",
    "db_schema": "stui_sessions",
    "insecure": False,
    "durability": "full",
    "storage_timeout": 5,
    "allow_unsafe_database": False,
    "max_sessions_per_client": 5,
    "max_sessions_per_user": 10,
    "on_limit": "reject",
    "default_ttl": 0,
    "default_timeout": 3600,
    "open_timeout": 2_592_000,
    "max_timeout": 31_536_000,
    "cleanup_interval": 300,
    "keep_expired": 604_800,
    "allow_clients": (),
    "deny_clients": (),
    "create_rate": 60,
    "max_message_bytes": 2_097_152,
    "max_state_bytes": 1_048_576,
    "max_depth": 128,
    "max_connections": 10_000,
    "line_timeout": 30,
    "output_timeout": 60,
    "output_limit": 4 * 1_048_576,
    "buffer_limit": 48 * 1_048_576,
    "resident_limit": 64 * 1_048_576,
    "journal_limit": 32 * 1_048_576,
    "snapshot_interval": 2,
    "log_retention": 86_400,
    "log_limit": 256 * 1_048_576,
    "log_level": "info",
    "log_format": "auto",
    "log_rate": 600,
}
RELOADABLE = {
    *(
        "max_sessions_per_client",
        "max_sessions_per_user",
        "on_limit",
        "default_ttl",
        "default_timeout",
        "open_timeout",
        "max_timeout",
        "keep_expired",
        "cleanup_interval",
    ),
    *("allow_clients", "deny_clients", "create_rate", "max_message_bytes", "max_state_bytes", "max_depth"),
    *("max_connections", "line_timeout", "output_timeout", "output_limit", "buffer_limit", "resident_limit"),
    *("journal_limit", "log_retention", "log_limit", "log_level", "log_rate"),
}


def env(**values: str) -> dict[str, str]:
    return {f"STUI_SESSIONS_{name.upper()}": value for name, value in values.items()}


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


# Defaults and rows.


def test_the_defaults_are_the_documented_ones() -> None:
    settings = load_settings({}, {}, None)
    assert {name: getattr(settings, name) for name in SETTINGS} == DOCUMENTED


def test_exactly_these_settings_change_while_running() -> None:
    assert {row.name for row in settings_rows() if row.reload} == RELOADABLE


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        load_settings({}, {}, None).port = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_described(name: str) -> None:
    row = SETTINGS[name]
    assert row.meaning.endswith(".")
    assert row.flag == "--" + name.replace("_", "-")
    assert row.env == "STUI_SESSIONS_" + name.upper()
    assert row.kind == "choice" or row.kind == "switch" or row.high or row.pattern


@pytest.mark.parametrize("name", SETTINGS)
def test_every_default_as_it_is_shown_can_be_given(name: str) -> None:
    row = SETTINGS[name]
    given = load_settings({name: row.default_text}, env(**{name: row.default_text}), None)
    assert getattr(given, name) == row.default


def test_the_table_has_one_line_for_each_setting() -> None:
    lines = settings_table().splitlines()
    columns = lines[0].count("|")
    assert len(lines) == 2 + len(SETTINGS)
    assert all(line.count("|") == columns for line in lines)
    for row, line in zip(settings_rows(), lines[2:], strict=True):
        assert line.startswith(f"| `{row.name}` |")
        assert row.env in line
        assert row.meaning in line
    assert "| `--tcp` `--no-tcp` |" in lines[4]
    assert any("`1MiB`" in line and "bytes" in line for line in lines)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1000, "1000"), (1024, "1KiB"), (3 * GIB, "3GiB"), (MIB + KIB, "1025KiB")]
)
def test_sizes_are_shown_in_the_largest_exact_unit(size: int, text: str) -> None:
    assert size_text(size) == text


# Sources.


def test_file_beats_default_environment_beats_file_flag_beats_environment(tmp_path: Path) -> None:
    config = toml(tmp_path, "port = 1\nmax_depth = 11\nline_timeout = 21\n")
    settings = load_settings({"port": "3"}, env(port="2", max_depth="12"), config)
    assert (settings.port, settings.max_depth, settings.line_timeout, settings.create_rate) == (3, 12, 21, 60)


def test_a_flag_that_was_not_given_hides_nothing() -> None:
    assert load_settings({"port": None, "tcp": None}, env(port="2"), None).port == 2


def test_the_environment_names_the_file_unless_a_flag_does(tmp_path: Path) -> None:
    named = toml(tmp_path, "port = 1")
    other = tmp_path / "other.toml"
    other.write_text("port = 2")
    environ = {"STUI_SESSIONS_CONFIG": str(named)}
    assert load_settings({}, environ, None).port == 1
    assert load_settings({}, environ, other).port == 2


def test_toml_values_have_their_own_types(tmp_path: Path) -> None:
    text = 'tcp = false\nunix = "/run/s"\nallow_clients = ["a*", "b"]\nmax_state_bytes = "64KiB"\nlog_level = "debug"\n'
    settings = load_settings({}, {}, toml(tmp_path, text))
    assert (settings.tcp, settings.unix, settings.allow_clients) == (False, "/run/s", ("a*", "b"))
    assert (settings.max_state_bytes, settings.log_level) == (65_536, "debug")


def test_text_values_are_read_by_the_type_of_the_setting() -> None:
    environ = env(insecure="YES", deny_clients="a*, b", allow_clients="", output_limit="2GiB", keep_expired="0")
    settings = load_settings({"tcp": True, "deny_clients": "c,[!d]?"}, environ, None)
    assert (settings.insecure, settings.allow_clients, settings.keep_expired) == (True, (), 0)
    assert (settings.output_limit, settings.deny_clients) == (2 * GIB, ("c", "[!d]?"))


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65_536), ("65536B", 65_536), ("64KiB", 65_536), ("64 kib", 65_536), ("1MiB", MIB), ("2GiB", 2 * GIB)],
)
def test_sizes_are_taken_with_units_from_every_source(tmp_path: Path, text: str, size: int) -> None:
    config = toml(tmp_path, f'resident_limit = "{text}"')
    for settings in (
        load_settings({}, {}, config),
        load_settings({}, env(resident_limit=text), None),
        load_settings({"resident_limit": text}, {}, None),
    ):
        assert settings.resident_limit == size


def test_a_tilde_is_the_home_directory_where_no_shell_expands_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    settings = load_settings({"unix": "~/s"}, {}, toml(tmp_path, 'db = "~/x.db"'))
    assert (settings.db, settings.unix) == ("/home/me/x.db", "/home/me/s")


def test_a_tilde_works_for_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    toml(tmp_path, "port = 1")
    assert load_settings({}, {}, Path("~/settings.toml")).port == 1
    assert load_settings({}, {"STUI_SESSIONS_CONFIG": "~/settings.toml"}, None).port == 1


def test_other_variables_are_not_ours() -> None:
    assert load_settings({}, {"PORT": "x", "_STUI_SESSIONS_COMPLETE": "bash_source"}, None).port == 7884


@pytest.mark.parametrize(("given", "used"), [(100, 100), (31_536_000, 2_592_000)])
def test_the_default_of_open_timeout_gives_way_to_max_timeout(given: int, used: int) -> None:
    """A settings file that was written before there was `open_timeout` still starts the server."""
    flags = {"default_timeout": 10, "max_timeout": given}
    assert load_settings(flags, {}, None).open_timeout == used
    assert load_settings({**flags, "open_timeout": 7}, {}, None).open_timeout == 7


# Reload.


def test_reload_takes_what_can_change_and_names_the_rest(tmp_path: Path) -> None:
    config = toml(tmp_path, "port = 1\ncreate_rate = 1\ndurability = 'full'")
    current = load_settings({"max_depth": "9"}, {}, config)
    toml(tmp_path, "port = 2\ncreate_rate = 2\ndurability = 'normal'\nmax_depth = 10\ndeny_clients = ['a']")
    settings, restart = reload_settings(current, {"max_depth": "9"}, {}, config)
    assert (settings.port, settings.durability) == (1, "full")
    assert (settings.create_rate, settings.max_depth, settings.deny_clients) == (2, 9, ("a",))
    assert restart == ["port", "durability"]


def test_reload_without_a_change_changes_nothing() -> None:
    current = load_settings({}, {}, None)
    assert reload_settings(current, {}, {}, None) == (current, [])


def test_reload_refuses_a_bad_file_whole(tmp_path: Path) -> None:
    config = toml(tmp_path, "create_rate = 1")
    current = load_settings({}, {}, config)
    toml(tmp_path, "create_rate = 2\nmax_depth = 1")
    with pytest.raises(SettingsError, match="max_depth"):
        reload_settings(current, {}, {}, config)


# The database's place.


@pytest.mark.parametrize(
    ("environ", "platform", "path"),
    [
        ({"HOME": "/h"}, "linux", "/h/.local/state/stui-sessions/sessions.db"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/x"}, "linux", "/x/stui-sessions/sessions.db"),
        ({"HOME": "/h", "XDG_STATE_HOME": ""}, "linux", "/h/.local/state/stui-sessions/sessions.db"),
        ({"HOME": "/h", "XDG_STATE_HOME": "rel"}, "linux", "/h/.local/state/stui-sessions/sessions.db"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/x"}, "darwin", "/h/Library/Application Support/stui-sessions/sessions.db"),
    ],
)
def test_the_default_database_is_in_the_state_directory(environ: dict[str, str], platform: str, path: str) -> None:
    assert database_path(Settings(), environ, platform) == Path(path)


def test_without_a_home_the_user_database_of_the_system_is_asked() -> None:
    assert database_path(Settings(), {}, "linux") == Path.home() / ".local/state/stui-sessions/sessions.db"


def test_a_named_database_is_taken_as_named() -> None:
    assert database_path(Settings(db="x/y.db"), {}) == Path("x/y.db")
    assert database_path(Settings(db=":memory:"), {}) is None


def test_a_database_needs_a_directory_that_exists_unless_it_is_the_default_one(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    default = database_path(Settings(), home)
    (tmp_path / "file").write_text("")
    for db in ("", ":memory:", "here.db", str(tmp_path / "x.db"), str(default)):
        check_database_place(Settings(db=db), home)
    for directory in (tmp_path / "none", tmp_path / "file", tmp_path / "file" / "none"):
        with pytest.raises(SettingsError) as refusal:
            check_database_place(Settings(db=str(directory / "x.db")), home)
        assert str(refusal.value) == (
            f'db "{directory / "x.db"}": "{directory}" is no directory; make it first, or correct the path'
        )
    assert not (tmp_path / "state").exists()


# Exposure.


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("127.9.9.9", ["127.9.9.9"]),
        ("::1", ["::1"]),
        ("m", ["::ffff:127.0.0.1"]),
        ("localhost", ["127.0.0.1", "::1"]),
    ],
)
def test_loopback_may_listen(host: str, addresses: list[str]) -> None:
    assert check_exposure(Settings(host=host), lambda name: addresses if name == host else []) == addresses


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("0.0.0.0", ["0.0.0.0"]),
        ("::", ["::"]),
        ("", ["0.0.0.0", "::"]),
        ("mixed", ["127.0.0.1", "10.0.0.5"]),
        ("fe80::1%eth0", ["fe80::1%eth0"]),
        ("::ffff:10.0.0.5", ["::ffff:10.0.0.5"]),
    ],
)
def test_any_other_address_is_refused_unless_insecure(host: str, addresses: list[str]) -> None:
    def resolve(name: str) -> list[str]:
        return addresses

    with pytest.raises(StartError) as refusal:
        check_exposure(Settings(host=host), resolve)
    text = str(refusal.value)
    assert addresses[-1] in text
    assert "no authentication" in text
    assert "--insecure" in text
    assert check_exposure(Settings(host=host, insecure=True), resolve) == addresses
    assert check_exposure(Settings(host=host, tcp=False, unix="/run/s"), resolve) == []


def test_real_addresses_are_resolved() -> None:
    assert check_exposure(Settings(host="127.0.0.1")) == ["127.0.0.1"]
    for host in ("0.0.0.0", ""):
        with pytest.raises(StartError, match="not loopback"):
            check_exposure(Settings(host=host))


@pytest.mark.parametrize("problem", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
def test_a_host_without_address_is_refused(problem: Exception) -> None:
    def resolve(name: str) -> Any:
        raise problem

    with pytest.raises(SettingsError, match='host "nowhere" cannot be resolved'):
        check_exposure(Settings(host="nowhere", insecure=True), resolve)
