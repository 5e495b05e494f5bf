"""Power cuts for a server: see `power_cut.c` for what survives one."""

import os
import random
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
SECTOR = 512
NOT_DATA = (".lock", "-shm")


class PowerCut:
    """The directory of a database, and its image: what of it has been synced.

    Start the server with `environment`; kill it (or not), then `cut`; then start it again.
    """

    def __init__(self, library: Path, directory: Path, seed: int = 0) -> None:
        self.directory = directory / "data"
        self.image = directory / "image"
        self.directory.mkdir(mode=0o700)
        self.image.mkdir()
        self.environment = {
            "LD_PRELOAD": str(library),
            "POWER_CUT_DIRECTORY": str(self.directory),
            "POWER_CUT_IMAGE": str(self.image),
            "POWER_CUT_SYNC_MICROSECONDS": "4000",
        }
        self._random = random.Random(seed)

    def survivors(self) -> dict[str, bytes]:
        """What is synced: each name that is durable, and the content that is."""
        names = self.image / "names"
        if not names.exists():
            return {}
        rows = [line.split(" ", 1) for line in names.read_text().splitlines()]
        return {name: self._synced(inode) for inode, name in rows if not name.endswith(NOT_DATA)}

    def lag(self) -> int:
        """Bytes of database files that are not as they were synced."""
        synced = self.survivors()
        return sum(_difference(synced.get(name, b""), data) for name, data in self._now().items())

    def cut(self, *, torn: bool) -> None:
        """Leave only what was synced; with `torn`, also a random part of what was not, sector by sector."""
        left = self.survivors()
        if torn:
            for name, data in self._now().items():
                left[name] = self._tear(left.get(name, b""), data)
        shutil.rmtree(self.directory)
        self.directory.mkdir(mode=0o700)
        for name, data in left.items():
            (self.directory / name).write_bytes(data)
            (self.directory / name).chmod(0o600)
        self._begin_again()

    def _begin_again(self) -> None:
        """What has survived is on disk."""
        shutil.rmtree(self.image)
        self.image.mkdir()
        files = list(self.directory.iterdir())
        for file in files:
            shutil.copyfile(file, self.image / str(file.stat().st_ino))
        (self.image / "names").write_text("".join(f"{file.stat().st_ino} {file.name}\n" for file in files))

    def _synced(self, inode: str) -> bytes:
        content = self.image / inode
        return content.read_bytes() if content.exists() else b""

    def _now(self) -> dict[str, bytes]:
        files = [file for file in self.directory.iterdir() if not file.name.endswith(NOT_DATA)]
        return {file.name: file.read_bytes() for file in files}

    def _tear(self, synced: bytes, written: bytes) -> bytes:
        """Each sector as it was synced or as it was written since; the length is one of both, too."""
        size = self._random.choice((len(synced), len(written)))
        kept = bytearray(synced[:size].ljust(size, b"\0"))
        for at in range(0, min(size, len(written)), SECTOR):
            if self._random.random() < 0.5:
                end = min(at + SECTOR, size, len(written))
                kept[at:end] = written[at:end]
        return bytes(kept)


def _difference(a: bytes, b: bytes) -> int:
    return sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b)) if a != b else 0


def build(directory: Path) -> Path:
    """Compile the library that is to be preloaded."""
    library = directory / "power_cut.so"
    compiler = os.environ.get("CC", "cc")
    options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run([compiler, *options, "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library
