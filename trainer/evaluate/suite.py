"""The interface of evaluation suites: what a suite needs, what it is given, and what it returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from common.page import Html
from trainer.evaluate.config import EvaluateSettings
from trainer.evaluate.data import EvaluationData
from trainer.evaluate.features import FeatureStore
from trainer.evaluate.images.image_sets import ImageSet
from trainer.evaluate.models import EvaluatedModel
from trainer.evaluate.probes import Probes

Row = dict[str, Any]
MODEL = ""  # in the path of a headline figure: the model's name


class Context(NamedTuple):
    """What a suite is given: settings, data, the models on their device, and stores of features and probes."""

    settings: EvaluateSettings
    data: EvaluationData
    models: list[EvaluatedModel]
    store: FeatureStore
    probes: Probes
    device: torch.device


@dataclass(frozen=True)
class Findings:
    """What a suite returns.

    Attributes:
        results: entry of results.json under the suite's name, by model.
        rows: rows of the suite's CSV table; all have the same keys.
        notes: sentences for the reader of results and report.
        further: additional top-level entries of results.json, by model.
        unreadable: reasons why images cannot be read, by set and image.
        excluded: counts of recordings that a data set's reader excluded, by data set and reason.
        details: anything else that the suite's report section shows.
    """

    results: dict[str, dict[str, Any]]
    rows: list[Row]
    notes: list[str]
    further: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unreadable: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    excluded: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    details: Any = None


class Headline(NamedTuple):
    """A main figure of a suite, shown at the top of the report.

    Attributes:
        name: its column in glance.csv.
        title: its heading in the report.
        path: keys that lead to it in a model's results, below the suite's name; `MODEL` stands for the model's name.
        percent: whether the report shows it in percent, with two digits; otherwise it has three digits.
    """

    name: str
    title: str
    path: Sequence[str | int]
    percent: bool = True


@dataclass(frozen=True)
class Suite:
    """An evaluation suite.

    Attributes:
        position: sort key of the suite's section in the report.
        inputs: settings that name the suite's data; at least one must be given.
        image_sets: function from the context to the image sets whose features the suite needs. It is called before
            anything is measured, and raises UserError for everything that can be wrong by then.
        run: function from the context to the findings.
        section: function from the findings to the suite's section of the report.
        headlines: main figures.
        default_inputs: settings that select the suite without --suite; by default `inputs`.
        options: settings that only this suite reads.
    """

    position: int
    inputs: tuple[str, ...]
    image_sets: Callable[[Context], list[ImageSet]]
    run: Callable[[Context], Findings]
    section: Callable[[Findings], Html]
    headlines: tuple[Headline, ...] = ()
    default_inputs: tuple[str, ...] | None = None
    options: tuple[str, ...] = ()


def format_percent(share: float) -> str:
    """Format a share of 1 in percent with two digits."""
    return f"{100 * share:.2f}"
