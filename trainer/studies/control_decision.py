"""The decision rule of the study of controls, as trainer/studies/STUDY.md states it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.text import join_names, pluralize
from trainer.config import TrainConfig
from trainer.studies.config import CONTROLS, TREATMENT
from trainer.studies.paired import LEVEL, Comparison, Figures, compare_recipes

PLAN = Path(__file__).with_name("study.yaml")
PLANNED_DATA = {"samples": 50_000, "classes": 100}  # mini-ImageNet's train/
PLANNED_MEASUREMENTS: dict[str, dict[str, Any]] = {  # by suite, on mini-ImageNet's val/
    "linear": {"images": 10_000},
    "imagenet-c": {"images": 10_000, "corrupted": 500, "severities": [1, 3, 5]},
}


@dataclass(frozen=True)
class Decision:
    """Outcome of the decision rule.

    Attributes:
        verdict: "supported", "not supported" or "undecided".
        reason: sentence that states why.
        comparisons: the comparisons that decide: the treatment with each control, by the primary outcome.
    """

    verdict: str
    reason: str
    comparisons: list[Comparison]


def read_plan() -> dict[str, Any]:
    """Return the planned settings: the number of seeds, and those of the runs."""
    plan: dict[str, Any] = yaml.safe_load(PLAN.read_text())
    return plan


def decide(figures: Figures, seeds: int) -> Decision:
    """Apply the decision rule: does the treatment beat all three controls?

    Args:
        figures: the primary outcome by recipe and seed.
        seeds: planned number of seeds. Only the seeds below it decide, so that nobody can add seeds until a difference
            is significant.

    The verdict is "supported" if the mean difference to each control is positive with a Holm-corrected p below 0.05,
    "undecided" if planned runs are missing, otherwise "not supported".
    """
    arms = (TREATMENT, *CONTROLS)
    planned = {arm: {seed: value for seed, value in figures.get(arm, {}).items() if seed < seeds} for arm in arms}
    comparisons = compare_recipes(planned, [(TREATMENT, control) for control in CONTROLS])
    missing = [f"{arm} seed {seed}" for seed in range(seeds) for arm in arms if seed not in planned[arm]]
    if missing:
        total = len(arms) * seeds
        reason = f"{len(missing)} of {pluralize(total, 'planned run')} that decide are missing: {join_names(missing)}."
        return Decision("undecided", reason, comparisons)
    beaten = [comparison.baseline for comparison in comparisons if _is_significant(comparison, 1)]
    ahead = [comparison.baseline for comparison in comparisons if _is_significant(comparison, -1)]
    if len(beaten) == len(CONTROLS):
        reason = f"{TREATMENT} is significantly better than all three controls."
        return Decision("supported", reason, comparisons)
    others = [control for control in CONTROLS if control not in beaten]
    reason = (
        f"{TREATMENT} is not significantly better than {join_names(others)}, so there is no evidence that a gain over "
        "plain contrastive training comes from human attention."
    )
    if ahead:
        reason += f" It is significantly worse than {join_names(ahead)}."
    return Decision("not supported", reason, comparisons)


def list_deviations(
    settings: Mapping[str, Any], data: Mapping[str, Any], measured_on: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return how results deviate from the planned study, such as "epochs 3 instead of 30".

    Settings that the plan does not name have the default value.

    Args:
        settings: settings of the runs.
        data: numbers of training images and classes.
        measured_on: what identifies the images of each suite that was measured, `SuiteMeasurement.of`.
    """
    plan = {name: value for name, value in read_plan().items() if name != "seeds"}
    planned = TrainConfig(**plan).model_dump(mode="json", include=settings.keys() | plan.keys()) | PLANNED_DATA
    found = {**settings, **data}
    for suite, of in measured_on.items():
        values = PLANNED_MEASUREMENTS.get(suite, {})
        planned |= {f"{suite} {name}": value for name, value in values.items()}
        found |= {f"{suite} {name}": of.get(name) for name in values}
    return [
        f"{name.replace('_', ' ')} {found.get(name)} instead of {value}"
        for name, value in planned.items()
        if found.get(name) != value
    ]


def _is_significant(comparison: Comparison, sign: int) -> bool:
    difference, p = comparison.difference, comparison.p_holm
    return difference is not None and p is not None and sign * difference > 0 and p < LEVEL
