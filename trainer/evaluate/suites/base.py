"""What suites share: what they are given, and what they find."""

from typing import Any, NamedTuple

import torch

from trainer.evaluate.config import EvaluateSettings
from trainer.evaluate.data import Data
from trainer.evaluate.features import FeatureStore
from trainer.evaluate.image_sets import ImageSet
from trainer.evaluate.models import EvaluatedModel
from trainer.evaluate.probes import Probes

Row = dict[str, Any]


class Context(NamedTuple):
    """What a suite is given."""

    settings: EvaluateSettings
    data: Data
    models: list[EvaluatedModel]
    store: FeatureStore
    probes: Probes
    device: torch.device

    def clean(self) -> ImageSet:
        """The images of --val."""
        assert self.data.val is not None, "settings and data were checked together"
        return self.data.val


class Findings(NamedTuple):
    """What a suite finds: `results` by model's name, as in results.json; `rows` of its CSV; notes for the reader."""

    results: dict[str, dict[str, Any]]
    rows: list[Row]
    notes: list[str]
