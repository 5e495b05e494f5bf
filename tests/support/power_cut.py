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
        self.directory.mkdir(mode=0o700, parents=True)
        self.image.mkdir()
        self.environment = {
            "LD_PRELOAD": str(library),
            "POWER_CUT_DIRECTORY": str(self.directory),
            "POWER_CUT_IMAGE": str(self.image),
            "POWER_CUT_SYNC_MICROSECONDS": "4000",
        }
        self._random = random.Random(seed)

    def survivors(self) -> dict[str, bytes]:
        """What is synced: each name that is durable, below the directory, and the content that is."""
        return {name: self._synced(inode) for name, inode in self._durable().items()}

    def lag(self) -> int:
        """Bytes of database files that are not as they were synced."""
        synced = self.survivors()
        return sum(_difference(synced.get(name, b""), data) for name, data in self._now().items())

    def cut(self, *, torn: bool) -> None:
        """Leave only what was synced; with `torn`, also a random part of what was not.

        Of each file's content, sector by sector; of each directory's names, all or none.
        """
        names = self._durable(self._random.random() < 0.5 if torn else False)
        written = {str(file.stat().st_ino): file.read_bytes() for file in self._files()} if torn else {}
        left = {}
        for name, inode in names.items():
            synced = self._synced(inode)
            left[name] = self._tear(synced, written[inode]) if inode in written else synced
        directories = [path.relative_to(self.directory) for path in self.directory.iterdir() if path.is_dir()]
        shutil.rmtree(self.directory)
        self.directory.mkdir(mode=0o700, parents=True)
        for directory in directories:
            (self.directory / directory).mkdir(mode=0o700)
        for name, data in left.items():
            (self.directory / name).write_bytes(data)
            (self.directory / name).chmod(0o600)
        self._begin_again()

    def _durable(self, newer: bool = False) -> dict[str, str]:
        """The names that are durable, with their inodes; `newer`: those of the log that are not, too."""
        found: dict[str, str] = {}
        for kind, inode, name in self._listed("names"):
            if kind == "f":
                found[name] = inode
            else:
                found |= {f"{name}/{inner}": number for _, number, inner in self._listed(f"names-{inode}")}
        if newer:
            found = {name: inode for name, inode in found.items() if "/" not in name}
            found |= {
                str(file.relative_to(self.directory)): str(file.stat().st_ino)
                for file in self._files()
                if file.parent != self.directory or file.name not in found
            }
        return {name: inode for name, inode in found.items() if not name.endswith(NOT_DATA)}

    def _listed(self, name: str) -> list[list[str]]:
        names = self.image / name
        return [line.split(" ", 2) for line in names.read_text().splitlines()] if names.exists() else []

    def _begin_again(self) -> None:
        """What has survived is on disk."""
        shutil.rmtree(self.image)
        self.image.mkdir()
        for directory in (self.directory, *(path for path in self.directory.iterdir() if path.is_dir())):
            top = directory == self.directory
            rows = [f"{'d' if path.is_dir() else 'f'} {path.stat().st_ino} {path.name}" for path in directory.iterdir()]
            name = "names" if top else f"names-{directory.stat().st_ino}"
            (self.image / name).write_text("".join(f"{row}\n" for row in rows))
        for file in self._files():
            shutil.copyfile(file, self.image / str(file.stat().st_ino))

    def _synced(self, inode: str) -> bytes:
        content = self.image / inode
        return content.read_bytes() if content.exists() else b""

    def _files(self) -> list[Path]:
        return [file for file in self.directory.rglob("*") if file.is_file() and not file.name.endswith(NOT_DATA)]

    def _now(self) -> dict[str, bytes]:
        return {str(file.relative_to(self.directory)): file.read_bytes() for file in self._files()}

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
