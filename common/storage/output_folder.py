"""A check before a program writes its first file: its output folder must not hold the files of anything else."""

import fnmatch
from collections.abc import Collection
from pathlib import Path

from common.errors import UserError
from common.storage import Storage
from common.storage.local import PARTIAL


def check_output_folder(storage: Storage, content: str, markers: Collection[str], own: Collection[str] = ()) -> None:
    """Check that an output folder is new, or that what it holds was written by an earlier run of the program.

    It was if one of the files `markers` exists, or if every file directly in the folder, and every subfolder with
    files, is the program's own. Names of unfinished files count as well.

    Args:
        storage: the output folder.
        content: what the program writes there, with an article, for the message: "a run".
        markers: files that only this program writes, such as the first or the last one.
        own: patterns (`fnmatch`) of the files and folders that may be there without a marker, because the run was
            interrupted before it wrote one.

    Raises UserError that names a file that is not the program's own.
    """
    location = storage.location
    if "://" not in location and Path(location).exists() and not Path(location).is_dir():
        raise UserError(f"--output {location}: expected a folder, found a file")
    if any(storage.exists(marker) for marker in markers):
        return

    def is_foreign(name: str) -> bool:
        finished = name.removesuffix(PARTIAL)  # empty for the folder of unfinished files
        return bool(finished) and not any(fnmatch.fnmatchcase(finished, pattern) for pattern in (*markers, *own))

    if (found := storage.find_file(is_foreign)) is not None:
        raise UserError(
            f"--output {location}: expected a new folder, or {content} to resume; found other files, such as {found}; "
            "choose another folder"
        )
