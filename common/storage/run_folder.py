"""The folder of a training run: files are written on this machine and, where its place is in S3, kept there."""

import json
import tempfile
from pathlib import Path
from typing import Any

from common.errors import UserError, describe_error
from common.storage import open_storage
from common.storage.files import write_atomically


class RunFolder:
    """A local folder that stands for `location`. For a local location it is that folder itself.

    Of a run in S3 only what is kept survives this machine; several machines need a location that all of them see.
    """

    def __init__(self, location: str) -> None:
        self._storage = open_storage(location)
        self._remote = "://" in location
        self.location = location.rstrip("/")
        # removed with this object
        self._made = tempfile.TemporaryDirectory(prefix="imagenet-attn-") if self._remote else None
        self.path = Path(self._made.name if self._made else location)

    def check_writable(self) -> None:
        """Prove that the run can be kept here, before anything is trained. Raises UserError."""
        self._storage.check_writable()

    def keep(self, *patterns: str) -> None:
        """Send the files that match, such as `checkpoints/last` or `tensorboard/*`. Raises UserError."""
        if self._remote:
            for file in sorted({file for pattern in patterns for file in self.path.glob(pattern) if file.is_file()}):
                self._storage.replace(file.relative_to(self.path).as_posix(), file.read_bytes())

    def write(self, name: str, text: str) -> None:
        """Write a file, whole or not at all, and keep it. Raises UserError."""
        try:
            write_atomically(self.path / name, text.encode(errors="backslashreplace"))  # locations may be any bytes
        except OSError as error:
            raise UserError(f"{self.location}/{name}: cannot be written: {error.strerror}") from None
        self.keep(name)

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON document likewise."""
        self.write(name, json.dumps(content, indent=1) + "\n")

    def read_json(self, name: str) -> Any:
        """A JSON document, None where there is none. Raises UserError where it cannot be read."""
        path = self.fetch(name)
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.location}/{name}: cannot be read: {describe_error(error)}; remove it") from None

    def fetch(self, name: str) -> Path:
        """The local path of a file that may exist, fetched where it was kept."""
        local = self.path / name
        if self._remote and not local.exists() and self._storage.exists(name):
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(self._storage.read(name))
        return local
