"""The disk as an enemy: full, failing, forbidden, shared.

The refusing disk is tried as a file size limit of the process (an I/O error, EFBIG) and, where this user may
mount one, as a tmpfs that is full (ENOSPC).
"""

import contextlib
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.database import assert_still_there, fill, refusal, unchanged
from tests.support.load import SERVER_ARGS, Load
from tests.support.server import ServerProcess
from tests.support.waiting import until

pytestmark = pytest.mark.local_store

# As root, a server without the rights that make permissions pointless; for others, nothing is to be done.
PLAIN_USER = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--") if os.geteuid() == 0 else ()


# A disk that refuses writes, and comes back.


class FileSizeLimit:
    """No file of the server may grow, or be written at all beyond its first byte: EFBIG."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server

    def refuse(self) -> None:
        self._limit(0)

    def relent(self) -> None:
        if self.server.running:  # the limit goes with the process
            self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


class FullTmpfs:
    """The server's file system is filled up by somebody else: ENOSPC."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.ballast = Path(server.db).parent / "ballast"

    def refuse(self) -> None:
        with contextlib.suppress(OSError), self.ballast.open("ab", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def relent(self) -> None:
        self.ballast.unlink()


Disk = FileSizeLimit | FullTmpfs


@contextlib.contextmanager
def tmpfs(directory: Path, size: str) -> Iterator[Path]:
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def can_mount() -> bool:
    if os.geteuid() != 0 or not (shutil.which("mount") and shutil.which("unshare")):
        return False
    probe = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    return probe.returncode == 0


@pytest.fixture(params=["efbig", "enospc"] if can_mount() else ["efbig"])
def disk(request: pytest.FixtureRequest, make_server: StartServer, tmp_path: Path) -> Iterator[Disk]:
    """A running server on a disk that can be told to refuse."""
    args = ("--cleanup-interval", "1", *SERVER_ARGS)
    if request.param == "efbig":
        yield FileSizeLimit(make_server(*args).start())
        return
    with tmpfs(tmp_path / "disk", "12m") as mounted:
        server = make_server(*args, db=mounted / "sessions.db").start()
        yield FullTmpfs(server)
        server.kill()


def load_into_refusal(disk: Disk) -> Load:
    """Load on the server, and by now some writes are being refused."""
    load = Load(disk.server, depth=1).start()
    refuse(disk, load)
    return load


def refuse(disk: Disk, load: Load) -> None:
    before = load.refused
    disk.refuse()
    until(lambda: load.refused > before + 20, "refused writes", timeout=20)


def test_a_disk_that_refuses_and_comes_back(disk: Disk) -> None:
    """Two outages; the load checks each read against what was acknowledged."""
    server = disk.server
    load = Load(server, depth=1).start()
    for _ in range(2):
        refuse(disk, load)
        with server.connect() as client:
            assert client.result("ping") == {"pong": True}
            reply = client.request("create_session", client_id="nobody")
            assert (reply["error_type"], reply["error_code"]) == ("RuntimeError", "storage_unavailable")
            assert client.result("list_client_sessions", client_id="nobody")["session_count"] == 0
        disk.relent()
        before = load.acknowledged
        until(lambda before=before: load.acknowledged > before + 100, "writes again, without a restart")
    load.stop()
    load.forget_doubts()
    load.verify()
    server.restart()
    load.verify()


def test_killed_while_the_disk_refuses(disk: Disk) -> None:
    """What was refused may be there after the next start, whole; what was acknowledged must be."""
    load = load_into_refusal(disk)
    disk.server.kill()
    load.join()
    disk.relent()
    disk.server.start()
    load.verify()


def test_stopped_while_the_disk_refuses(disk: Disk) -> None:
    load = load_into_refusal(disk)
    assert disk.server.terminate() == 0
    load.join()
    disk.relent()
    disk.server.start()
    load.verify()


@pytest.mark.skipif(not can_mount(), reason="this user may not mount a file system")
def test_a_small_disk_is_enough(make_server: StartServer, tmp_path: Path) -> None:
    """More than it has room for goes through the log, at once; what the log would be kept for gives way."""
    with tmpfs(tmp_path / "disk", "24m") as mounted:
        server = make_server(*SERVER_ARGS, db=mounted / "sessions.db").start()
        with server.connect() as client:
            ids = [client.result("create_session", client_id=f"c{n}")["session_id"] for n in range(100)]
            for n in range(20):
                requests = [
                    ("update_session_state", {"session_id": i, "state_data": {"n": n, "x": "x" * 20_000}}) for i in ids
                ]
                assert {reply["status"] for reply in client.pipeline(requests)} == {"success"}
        server.restart()
        with server.connect() as client:
            assert {client.result("restore_session", session_id=i)["session_state"]["n"] for i in ids} == {19}
        server.kill()


@pytest.mark.skipif(not can_mount(), reason="this user may not mount a file system")
@pytest.mark.parametrize("free", [0, 64, 400])  # KiB: for nothing, for the tables alone, not for the log
def test_a_new_database_on_a_full_disk(make_server: StartServer, tmp_path: Path, free: int) -> None:
    with tmpfs(tmp_path / "disk", "12m") as mounted:
        server = make_server(db=mounted / "sessions.db")
        disk = FullTmpfs(server)
        disk.refuse()
        os.truncate(disk.ballast, disk.ballast.stat().st_size - free * 1024)
        assert re.search("full|No space left", refusal(server))
        assert list(mounted.iterdir()) == [disk.ballast]
        disk.relent()
        server.start().kill()


@pytest.mark.skipif(not can_mount(), reason="this user may not mount a file system")
def test_started_on_a_full_disk_after_a_kill(make_server: StartServer, tmp_path: Path) -> None:
    """It is refused, and neither the process nor its lock stays."""
    with tmpfs(tmp_path / "disk", "12m") as mounted:
        server = fill(make_server(db=mounted / "sessions.db"), kill=True)
        disk = FullTmpfs(server)
        disk.refuse()
        assert "full" in refusal(server)
        disk.relent()
        assert_still_there(server.start())
        server.kill()


# Places that cannot be used.


def test_an_unwritable_directory_is_refused(make_server: StartServer, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o500)
    server = make_server(db=place / "sessions.db", wrapper=PLAIN_USER)
    assert "no permission" in refusal(server)
    assert list(place.iterdir()) == []


def test_a_database_in_a_directory_that_became_unwritable(make_server: StartServer, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    server = fill(make_server(db=place / "sessions.db", wrapper=PLAIN_USER))
    (place / "sessions.db.lock").unlink()
    place.chmod(0o500)
    with unchanged(server):
        assert "no permission" in refusal(server)
    place.chmod(0o700)
    assert_still_there(server.start())


def test_a_read_only_file_is_refused(make_server: StartServer) -> None:
    server = fill(make_server(wrapper=PLAIN_USER))
    Path(server.db).chmod(0o400)
    with unchanged(server):
        assert "no permission" in refusal(server)
    Path(server.db).chmod(0o600)
    assert_still_there(server.start())


def test_loose_permissions_are_tightened(make_server: StartServer) -> None:
    server = make_server()
    Path(server.db).touch()  # an empty file becomes a database
    Path(server.db).chmod(0o644)
    assert_still_there(fill(server).start())
    assert Path(server.db).stat().st_mode & 0o777 == 0o600
    assert "permissions_tightened" in server.stderr()


def test_one_server_for_each_database(make_server: StartServer) -> None:
    first = fill(make_server()).start()
    second = make_server(db=first.db)
    assert f"process {first.pid}" in refusal(second)
    link = second.directory / "link.db"
    link.symlink_to(first.db)
    assert "another server" in refusal(make_server(db=link))
    assert first.result("ping") == {"pong": True}
    first.kill()
    assert_still_there(second.start())
