"""A simulated power cut for the store alone; `tests/end_to_end/test_power_cut.py` does the same to a server.

The big run, some minutes:

    STUI_TEST_POWER_CUTS=200 python -m pytest -s tests/storage/test_power_cut.py
"""

import asyncio
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stui_sessions.domain.finding import Counts
from stui_sessions.storage.local import Durability
from tests.storage.contract.test_query import Crowd, counted
from tests.storage.stores import LocalMaker, Scribe
from tests.support.power_cut import PowerCut, build

ROUNDS = int(os.environ.get("STUI_TEST_POWER_CUTS", "8"))

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the library is preloaded the way of Linux"),
    pytest.mark.skipif(not shutil.which(os.environ.get("CC", "cc")), reason="needs a C compiler (cc)"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("library"))


def run(power: PowerCut, program: str, *arguments: str) -> subprocess.Popen[str]:
    """A program whose files are under `power`; it is at work when this returns."""
    environment = os.environ | power.environment | {"POWER_CUT_SYNC_MICROSECONDS": "300"}
    command = [sys.executable, "-c", program, str(power.directory), *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


# The test of the test.

WRITES = """
import os, sys, time
os.chdir(sys.argv[1])
def sync(name):
    fd = os.open(name, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
os.mkdir("log")
for name in ("synced", "log/old", "log/moved", "log/blocks"):
    with open(name, "wb") as file:
        file.write(b"1" * 8192)
    sync(name)
sync(".")
sync("log")
os.rename("log/old", "log/new")
os.rename("log/moved", "log/there")
sync("log") if len(sys.argv) > 2 else None
with open("synced", "r+b") as file:
    file.write(b"2" * 100)
with open("log/blocks", "r+b") as file:
    file.write(b"2" * 8192)
with open("log/fresh", "wb") as file:
    file.write(b"3")
sync("log/fresh")
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("renamed", [False, True])
def test_only_what_was_synced_survives(library: Path, tmp_path: Path, renamed: bool) -> None:
    power = PowerCut(library, tmp_path)
    process = run(power, WRITES, *(["synced"] if renamed else []))
    process.kill()
    process.communicate()
    assert power.lag() > 0
    power.cut(torn=False)
    names = {"log/new", "log/there"} if renamed else {"log/old", "log/moved"}
    assert power.survivors() == dict.fromkeys({"synced", "log/blocks", *names}, b"1" * 8192)
    assert {str(p.relative_to(power.directory)) for p in power.directory.rglob("*") if p.is_file()} == {
        "synced",
        "log/blocks",
        *names,
    }
    assert power.lag() == 0


def test_what_was_not_synced_is_torn(library: Path, tmp_path: Path) -> None:
    """Some sectors are new and some are old, in any order; names are all old or all new."""
    seen = set()
    for seed in range(12):
        power = PowerCut(library, tmp_path / f"{seed}", seed)
        process = run(power, WRITES)
        process.kill()
        process.communicate()
        power.cut(torn=True)
        blocks = (power.directory / "log" / "blocks").read_bytes()
        sectors = [blocks[at : at + 512] for at in range(0, 8192, 512)]
        assert set(sectors) == {b"1" * 512, b"2" * 512}
        assert sectors != sorted(sectors)
        names = frozenset(p.name for p in (power.directory / "log").iterdir())
        seen.add(names)
    assert seen == {frozenset({"old", "moved", "blocks"}), frozenset({"new", "there", "blocks", "fresh"})}


# The store.

WORKS = """
import asyncio, pathlib, random, sys
from stui_sessions.storage.local import Limits, LocalStore, segments
from tests.storage.stores import Clock, RecordingLog, Scribe
from tests.storage.test_power_cut import change, model

segments.SMALLEST, segments.LARGEST = 2**16, 2**17

async def main():
    store = LocalStore(
        pathlib.Path(sys.argv[1]) / "sessions.db", durability=sys.argv[2], clock=Clock(), log=RecordingLog(),
        limits=Limits(interval=0.02, log_limit=2**18, journal_limit=2**17),
    )
    found = await store.open()
    scribe, crowd = model(found.commit)
    scribe.store = store
    print("ready", flush=True)
    while True:
        change(scribe, crowd)
        await scribe.commit()
        print(scribe.last, flush=True)

asyncio.run(main())
"""


def change(scribe: Scribe, crowd: Crowd) -> None:
    """What is committed next: it follows from what was."""
    chance = crowd.chance = random.Random(scribe.last)
    for _ in range(chance.randrange(1, 6)):
        crowd.change()
    if chance.random() < 0.3:
        live = [s for s in scribe.sessions() if s.status == 0]
        if live:
            scribe.update(chance.choice(live), b'{"x":"%s"}' % (b"x" * chance.randrange(30_000)), replaces=True)


def model(commits: int) -> tuple[Scribe, Crowd]:
    """What there is after so many commits."""
    scribe = Scribe(None)  # type: ignore[arg-type]
    crowd = Crowd(scribe, random.Random(0), 1, 500)
    while scribe.last < commits:
        change(scribe, crowd)
        scribe.committed(scribe.batch())
    return scribe, crowd


async def check(local: LocalMaker, path: Path, acknowledged: int) -> int:
    """All that was acknowledged is there, and nothing else; the newest commit."""
    store = local.at(path)
    found = await store.open()
    assert found.commit >= acknowledged
    scribe, _ = model(found.commit)
    scribe.store = store
    await scribe.check()
    assert await store.query(Counts(""), scribe.at) == counted(scribe)
    await store.close(clean=False)
    return found.commit


def work(power: PowerCut, durability: Durability, chance: random.Random) -> int:
    """Commits until it is killed somewhere; the newest that was acknowledged."""
    process = run(power, WORKS, durability)
    assert process.stdout is not None
    acknowledged = 0
    for _ in range(chance.randrange(1, 150)):
        acknowledged = int(process.stdout.readline())
    process.kill()
    rest, _ = process.communicate()
    return max([acknowledged, *(int(line) for line in rest.split("\n")[:-1])])


@pytest.mark.parametrize("torn", [False, True], ids=["synced", "torn"])
async def test_no_acknowledged_commit_is_lost(library: Path, tmp_path: Path, torn: bool) -> None:
    power = PowerCut(library, tmp_path, seed=torn)
    chance = random.Random(torn)
    newest = 0
    for n in range(max(1, ROUNDS // 2)):
        acknowledged = await asyncio.to_thread(work, power, "full", chance)
        assert acknowledged > newest
        power.cut(torn=torn)
        local = LocalMaker(tmp_path)
        copied = tmp_path / f"{n}"
        shutil.copytree(power.directory, copied)
        newest = await check(local, copied / "sessions.db", acknowledged)
    print(f"\n{newest} commits")


@pytest.mark.parametrize("torn", [False, True], ids=["synced", "torn"])
async def test_normal_durability_loses_the_end_alone(library: Path, tmp_path: Path, torn: bool) -> None:
    """What is there is a beginning of what was committed, without holes; and it can be gone on from."""
    power = PowerCut(library, tmp_path, seed=torn)
    chance = random.Random(10 + torn)
    lost = 0
    for n in range(max(1, ROUNDS // 2)):
        acknowledged = await asyncio.to_thread(work, power, "normal", chance)
        power.cut(torn=torn)
        copied = tmp_path / f"{n}"
        shutil.copytree(power.directory, copied)
        lost += acknowledged - min(acknowledged, await check(LocalMaker(tmp_path), copied / "sessions.db", 0))
    assert lost > 0, "a cut that loses nothing is none"
