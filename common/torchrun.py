"""Errors of programs that torchrun has started: the report that it prints at its end repeats them."""

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from common.storage.files import write_atomically

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # environment variable by which torchrun names a file to each process


def report_to_torchrun(main: Callable[[], int]) -> Callable[[], int]:
    """Return a program's main function that also reports a UserError to torchrun, if torchrun has started the program.

    Torchrun prints a traceback of its own code after the program's output, and then the reports of failed processes.
    Its own decorator `record` would report a traceback for each process instead of the sentence.
    """

    @functools.wraps(main)
    def report_and_raise() -> int:
        try:
            return main()
        except UserError as error:
            if path := os.environ.get(ERROR_FILE):
                content = {"message": f"error: {error}", "timestamp": int(time.time())}
                write_atomically(Path(path), json.dumps(content).encode())
            raise

    return report_and_raise
