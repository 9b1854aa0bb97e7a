"""Checks of the input and output locations before anything is planned."""

from pathlib import Path

from common.errors import UserError
from common.manifest import PLAN
from common.sources import Source, open_source
from common.storage import Storage
from common.storage.output_folder import check_output_folder


def open_input(location: str, output: str) -> Source:
    """Open the images at `location`. Raises UserError if it cannot be opened, or if the output lies inside it."""
    source = open_source(location)
    if _is_inside(output, location):
        raise UserError(
            f"--output {output} lies inside --input {location}, so the shards would become part of the input; choose "
            "another output"
        )
    return source


def check_output(storage: Storage) -> None:
    """Raise UserError if the output is a file, or a folder that holds files but no data set, also in subfolders."""
    check_output_folder(storage, "a data set", (PLAN,))


def _is_inside(output: str, location: str) -> bool:
    if "://" in output or "://" in location:
        return f"{output.rstrip('/')}/".startswith(f"{location.rstrip('/')}/")
    return Path(output).resolve().is_relative_to(Path(location).resolve())
