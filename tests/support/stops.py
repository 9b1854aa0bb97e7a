"""Programs that are interrupted: a training run at a given step, any function within a write."""

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


class Stop(Exception):
    """Raised in place of a power cut."""


@contextmanager
def stopped_before(step: int, trainer_class: type[Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interrupt the training that runs in the `with` block before the given step; it must get that far."""
    train_step = trainer_class.train_step

    def stop_or_train(self: Any, *arguments: Any) -> Any:
        if self.step == step:
            raise Stop
        return train_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_class, "train_step", stop_or_train)
        with pytest.raises(Stop):
            yield


def run_until_file_exceeds(size: int, function: Callable[..., object], *arguments: Any) -> None:
    """Call a function in a child process that the kernel kills when one of its files grows beyond `size` bytes.

    The bytes within the limit are written. The child's output is discarded, because it may go to a file.
    """

    def run() -> None:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        torch.set_num_threads(1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        function(*arguments)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGXFSZ, f"no file grew beyond {size} bytes; exit code {process.exitcode}"
