"""`db` as a URL: what is taken, what is refused, and that no password is ever shown."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stui_sessions.config import (
    Settings,
    SettingsError,
    check_database_place,
    database_path,
    is_url,
    load_settings,
    shown_url,
)

SECRET = "hunter2"
SEVERAL = (
    "postgresql://u@h1:5432,h2:5432/name?target_session_attrs=read-write&sslmode=verify-full&sslrootcert=/etc/ssl/r.crt"
)


def refused(db: str, **more: object) -> str:
    with pytest.raises(SettingsError) as refusal:
        load_settings(more, {"STUI_SESSIONS_DB": db}, None)
    return str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        SEVERAL,
        "postgresql://",
        "postgres://h",
        "postgresql:///name",
        "postgresql://h/name?connect_timeout=3&application_name=x",
        "postgresql://u%40corp@[::1]:5433,[fe80::1%25eth0]/name",
        "postgresql://%2Frun%2Fpostgresql/name",
        "postgresql:///name?host=/run/postgresql&port=5433",
        "postgresql:///name?host=a,b&port=1,2&passfile=/x",
        f"postgresql://u:{SECRET}@h/name",
        f"postgresql://u@h/name?password={SECRET}&sslpassword=x",
        "POSTGRESQL://h/name",
    ],
)
def test_urls_of_postgresql_are_taken_as_they_are(url: str, tmp_path: Path) -> None:
    config = tmp_path / "s.toml"
    config.write_text(f'db = "{url}"')
    for settings in (load_settings({}, {"STUI_SESSIONS_DB": url}, None), load_settings({}, {}, config)):
        assert settings.db == url
        assert is_url(settings.db)
        check_database_place(settings, {})  # there is no directory to look for
        with pytest.raises(SettingsError, match="is a PostgreSQL; expected the path of a file") as refusal:
            database_path(settings, {})
        assert SECRET not in str(refusal.value)


def test_a_url_is_taken_as_a_flag_too() -> None:
    assert load_settings({"db": SEVERAL}, {}, None).db == SEVERAL


@pytest.mark.parametrize("db", ["", ":memory:", "s.db", "/x/postgresql.db", "postgresql", "~/x.db", "./a://b"])
def test_paths_stay_paths(db: str) -> None:
    assert not is_url(load_settings({"db": db}, {}, None).db)


@pytest.mark.parametrize(
    ("url", "right"),
    [
        (f"mysql://u:{SECRET}@h/x", "a URL that begins with postgresql://"),
        (f"postgresq://u:{SECRET}@h/x", "a URL that begins with postgresql://"),
        (f"postgresql:u:{SECRET}@h/x", "a URL that begins with postgresql://"),
        (f" postgresql://u:{SECRET}@h/x", "a URL that begins with postgresql://"),
        (f"host=h password={SECRET} dbname=x", "a URL such as postgresql://USER@HOST/NAME"),
        (f"dbname=x password = '{SECRET}'", "a URL such as postgresql://USER@HOST/NAME"),
        (f"postgresql://u:a@{SECRET}@h/x", "%40 for @"),
        (f"postgresql://u:a/{SECRET}@h/x", "%40 for @"),
        (f"postgresql://u:1/{SECRET}@h/x", "%2F for /"),
        (f"postgresql://u:1?{SECRET}@h/x", "name=value"),
        (f"postgresql://u:1#{SECRET}@h/x", "%23 for #"),
        (f"postgresql://u:{SECRET}\n@h/x", "no control characters"),
        (f"postgresql://u:{SECRET}@h:port/x", "USER@HOST:PORT"),
        (f"postgresql://u:{SECRET}@h:70000/x", "USER@HOST:PORT"),
        (f"postgresql://u:{SECRET}@h:0/x", "USER@HOST:PORT"),
        (f"postgresql://u:{SECRET}@[::1/x", "USER@HOST:PORT"),
        (f"postgresql://u:{SECRET}@h1,,h2/x", "USER@HOST:PORT"),
        (f"postgresql://u:{SECRET}@h/x?sslmod=require", "no parameter but host, port"),
        (f"postgresql://u@h/x?passwort={SECRET}", "no parameter but host, port"),
        (f"postgresql://u:{SECRET}@h/x?sslmode=on", "one of disable, allow, prefer, require, verify-ca, verify-full"),
        (f"postgresql://u:{SECRET}@h/x?target_session_attrs=standby", "one of read-write, primary, any"),
        (f"postgresql://u:{SECRET}@h/x?connect_timeout=0", "seconds from 1 to 9999"),
        (f"postgresql://u:{SECRET}@h/x?host=", "a value for host"),
        (f"postgresql://u:{SECRET}@/x?host=a&port=b", "port to be a number"),
        (f"postgresql://u:{SECRET}@h/x?sslmode", "name=value"),
    ],
)
def test_what_is_no_good_url_is_refused_without_its_password(url: str, right: str) -> None:
    text = refused(url)
    assert text.startswith("environment STUI_SESSIONS_DB: ")
    before, _, after = text.partition("; expected ")
    assert right in after
    assert SECRET not in text
    assert "***" in before


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        (f'db = ["postgresql://u:{SECRET}@h/x"]', "is not a valid db"),
        (f'database = "postgresql://u:{SECRET}@h/x"', "no such setting"),
        (f'xyzzy = "postgresql://u:{SECRET}@h/x"', "no such setting"),
        (f'host = "postgresql://u:{SECRET} @h/x"', "is not a valid host"),
    ],
)
def test_a_url_in_the_wrong_place_shows_no_password(toml: str, words: str, tmp_path: Path) -> None:
    config = tmp_path / "s.toml"
    config.write_text(toml)
    with pytest.raises(SettingsError, match=words) as refusal:
        load_settings({}, {}, config)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("db", [f"postgresql://u:{SECRET}@h/x", f"postgresql://u@h/x?password={SECRET}"])
def test_a_password_as_a_flag_is_refused(db: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings({"db": db}, {}, None)
    text = str(refusal.value)
    assert text.startswith("--db: a password on the command line")
    assert all(way in text for way in ("PGPASSFILE", "PGPASSWORD", "STUI_SESSIONS_DB", "settings file"))
    assert SECRET not in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (SEVERAL, SEVERAL),
        ("/srv/s.db", "/srv/s.db"),
        (":memory:", ":memory:"),
        ("postgresql://u@h:5432/x", "postgresql://u@h:5432/x"),
        ("postgresql://u:@h/x", "postgresql://u:@h/x"),
        ("postgresql://u:pw@h:5432/x?sslmode=require", "postgresql://u:***@h:5432/x?sslmode=require"),
        ("postgresql://u:p:w@h1,h2/x", "postgresql://u:***@h1,h2/x"),
        ("postgresql://u@corp:p@w@h/x", "postgresql://u@corp:***@h/x"),
        ("postgresql://u@h/x?password=pw", "postgresql://u@h/x?password=***"),
        ("postgresql://u@h/x?passfile=/p&sslmode=allow", "postgresql://u@h/x?passfile=/p&sslmode=allow"),
        ("postgresql://u@h/x?sslmode=allow&p%61ssword=p@w", "postgresql://u@h/x?sslmode=allow&p%61ssword=***"),
        ("postgresql://u:a@h/x?password=b", "postgresql://u:***@h/x?password=***"),
        ("postgresql://h:1/x?password=p@w", "postgresql://h:***"),
        ("unexpected argument (postgresql://u:pw@h)", "unexpected argument (postgresql://u:***@h)"),
        ("postgresql:/u:pw@h is no directory", "postgresql:/u:***@h is no directory"),
    ],
)
def test_shown_urls(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert shown_url(shown) == shown


NASTY = st.text("ab@:/?#&;=%[] ,\n'\"", min_size=1, max_size=6)


@given(NASTY, NASTY, st.sampled_from(["", "?sslmode=allow", "?password=x", "?a=b@c"]))
def test_no_password_is_shown_however_badly_it_is_written(before: str, after: str, query: str) -> None:
    url = f"postgresql://u:{before}{SECRET}{after}@h:5432/x{query}"
    assert SECRET not in shown_url(url)
    assert SECRET not in refused(url, port="-1")


# The other settings of a shared store.


@pytest.mark.parametrize("name", ["s", "_x1", "stui_sessions", "a" * 63])
def test_names_of_schemas(name: str) -> None:
    assert load_settings({"db_schema": name}, {}, None).db_schema == name


@pytest.mark.parametrize("name", ["", "1a", "A", "a-b", "a b", 'a"b', "ä", "a" * 64, "pg_x", "a\n"])
def test_what_is_no_name_of_a_schema_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="expected 1 to 63 of a-z, 0-9 and _, no digit and no pg_ first"):
        load_settings({"db_schema": name}, {}, None)


def test_the_storage_timeout_has_bounds() -> None:
    assert load_settings({"storage_timeout": "1"}, {}, None).storage_timeout == 1
    assert load_settings({"storage_timeout": "3600"}, {}, None).storage_timeout == 3600
    for wrong in ("0", "3601"):
        with pytest.raises(SettingsError, match=re.escape("from 1 to 3600 (seconds)")):
            load_settings({"storage_timeout": wrong}, {}, None)


def test_a_lesser_durability_of_a_shared_store_must_be_allowed() -> None:
    url = f"postgresql://u:{SECRET}@h/x"
    text = refused(url, durability="normal")
    assert text.startswith("settings together: durability normal could lose")
    assert "expected durability full" in text
    assert "allow_unsafe_database" in text
    assert SECRET not in text
    flags = {"durability": "normal", "allow_unsafe_database": True}
    assert load_settings(flags, {"STUI_SESSIONS_DB": url}, None).durability == "normal"
    assert load_settings({"durability": "normal"}, {}, None) == Settings(durability="normal")
