"""A simulated power cut: only what was synced survives, or that and a random part of what was not.

The big run, 50 cuts (issue 2, "What it must show", 4), some 80 s:

    STUI_TEST_POWER_CUTS=50 python -m pytest -s tests/end_to_end/test_power_cut.py
"""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.load import SERVER_ARGS, Load
from tests.support.power_cut import PowerCut, build

ROUNDS = int(os.environ.get("STUI_TEST_POWER_CUTS", "6"))

pytestmark = [
    pytest.mark.local_store,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the library is preloaded the way of Linux"),
    pytest.mark.skipif(not shutil.which(os.environ.get("CC", "cc")), reason="needs a C compiler (cc)"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("library"))


@pytest.fixture
def power(library: Path, tmp_path: Path, request: pytest.FixtureRequest) -> PowerCut:
    return PowerCut(library, tmp_path, seed=len(request.node.name))


def loaded(make_server: StartServer, power: PowerCut, *args: str) -> Load:
    """Load on a running server whose database is under `power`."""
    server = make_server(*args, *SERVER_ARGS, db=power.directory / "sessions.db", env=power.environment)
    return Load(server.start(), seed=1)


@pytest.mark.parametrize("torn", [False, True], ids=["synced", "torn"])
def test_no_acknowledged_write_is_lost(make_server: StartServer, power: PowerCut, torn: bool) -> None:
    load = loaded(make_server, power, "--snapshot-interval", "1")
    lags = []
    for _ in range(max(1, ROUNDS // 2)):
        load.start()
        load.go_on_for(1.5)
        load.server.kill()
        load.join()
        lags.append(power.lag())
        power.cut(torn=torn)
        load.server.start()
        load.verify()
    print(f"\npower cut: {len(lags)} rounds, {load.acknowledged} acknowledged writes, unsynced bytes {lags}")


def test_a_cut_after_an_orderly_stop(make_server: StartServer, power: PowerCut) -> None:
    load = loaded(make_server, power).start()
    load.stop()
    assert load.server.terminate() == 0
    power.cut(torn=True)
    load.server.start()
    load.verify()


def test_a_cut_during_the_first_start(make_server: StartServer, power: PowerCut) -> None:
    """The database is there, whole and empty, as soon as the server says that it listens."""
    load = loaded(make_server, power)
    load.server.kill()
    power.cut(torn=False)
    assert (power.directory / "sessions.db").stat().st_size > 0
    load.server.start()
    load.verify()


def test_without_fsync_the_same_cut_loses_writes(make_server: StartServer, power: PowerCut) -> None:
    """The test of the test: with `--durability normal` nothing but the last writes is lost, and that shows."""
    load = loaded(make_server, power, "--durability", "normal", "--snapshot-interval", "3600").start()
    load.stop()
    load.server.kill()
    assert power.lag() > 0
    power.cut(torn=False)
    load.server.start()
    with pytest.raises(AssertionError, match=r"lost:|not one of"):
        load.verify()
    assert load.server.result("create_session", client_id="after")["revision"] == 1
