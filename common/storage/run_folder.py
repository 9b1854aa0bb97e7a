"""The folder of a training run: a local folder, whose files are uploaded if the run's location is in S3."""

import json
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from common.errors import UserError, describe_error
from common.storage import open_storage
from common.storage.files import write_atomically
from common.storage.output_folder import check_output_folder


class RunFolder:
    """Local folder of a run, at `path`. For a run in S3 it is temporary, and `location` has the uploaded files.

    Files of a run in S3 that were not uploaded are lost with this object. Runs on several machines need a location that
    all of them can reach.
    """

    def __init__(self, location: str) -> None:
        self._storage = open_storage(location)
        self._remote = "://" in location
        self.location = location.rstrip("/")
        # the folder is removed when this object is garbage collected
        self._temporary = tempfile.TemporaryDirectory(prefix="imagenet-attn-") if self._remote else None
        self.path = Path(self._temporary.name if self._temporary else location)

    def check_content(self, content: str, markers: Collection[str], own: Collection[str] = ()) -> None:
        """Check that the folder is new or that of an earlier run; see `check_output_folder`. Raises UserError."""
        check_output_folder(self._storage, content, markers, own)

    def check_writable(self) -> None:
        """Check that the run can be saved here, before training starts. Raises UserError."""
        self._storage.check_writable()

    def upload(self, *patterns: str) -> None:
        """Upload the files that match a pattern, such as `checkpoints/last` or `tensorboard/*`. Raises UserError.

        Does nothing for a run in a local folder.
        """
        if self._remote:
            for file in sorted({file for pattern in patterns for file in self.path.glob(pattern) if file.is_file()}):
                self._storage.replace(file.relative_to(self.path).as_posix(), file.read_bytes())

    def write(self, name: str, text: str) -> None:
        """Write a text file atomically and upload it. Raises UserError."""
        # a text may contain a location, which may contain bytes that are not UTF-8
        self.write_bytes(name, text.encode(errors="backslashreplace"))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file atomically and upload it. Raises UserError."""
        try:
            write_atomically(self.path / name, content)
        except OSError as error:
            raise UserError(f"{self.location}/{name}: cannot be written: {error.strerror}") from None
        self.upload(name)

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON document atomically and upload it. Raises UserError."""
        self.write(name, json.dumps(content, indent=1) + "\n")

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON document, or None if it is absent. Raises UserError if it cannot be read."""
        path = self.fetch(name)
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.location}/{name}: cannot be read: {describe_error(error)}; remove it") from None

    def fetch(self, name: str) -> Path:
        """Return the local path of a file, after downloading it if necessary. The run may have no such file."""
        local = self.path / name
        if self._remote and not local.exists() and self._storage.exists(name):
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(self._storage.read(name))
        return local
