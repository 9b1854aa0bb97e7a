"""The file that lets a stopped verification resume: the shards that were found intact, one line each."""

import hashlib
from pathlib import Path

from common.storage.files import cache_folder

FOLDER = "verify"  # in the cache folder


class VerifiedShards:
    """Shards that were found intact, by name, each with a checksum of everything that this depends on.

    The file is created with the first shard, and every further one appends a line, so that a killed program loses
    nothing. Lines that cannot be parsed are ignored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            lines = path.read_text("utf-8", errors="replace").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            lines = []
        entries = [line.partition("  ") for line in lines]
        self.checksums = {name: checksum for checksum, _, name in entries}

    def add(self, shard: str, checksum: str) -> None:
        """Add a shard. Raises OSError if the file cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{checksum}  {shard}\n")

    def remove(self) -> None:
        """Remove the file, if it exists."""
        self.path.unlink(missing_ok=True)


def default_path(dataset: str) -> Path:
    """Return the path of a data set's file in the cache folder."""
    location = dataset.rstrip("/") if "://" in dataset else str(Path(dataset).resolve())
    return cache_folder() / FOLDER / f"{hashlib.sha256(location.encode()).hexdigest()[:32]}.txt"
