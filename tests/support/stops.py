"""Training runs that are interrupted at a given step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


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
