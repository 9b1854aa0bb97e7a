"""Runs that end in the middle."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Stop(Exception):
    """In place of a power cut."""


@contextmanager
def stopped_before(step: int, training: type[Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What runs in here must reach the given step of a `Training`, and stops before that is learnt."""
    learn = training.learn

    def stopping(self: Any, *arguments: Any) -> Any:
        if self.step == step:
            raise Stop
        return learn(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "learn", stopping)
        with pytest.raises(Stop):
            yield
