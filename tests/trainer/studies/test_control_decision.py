"""The decision rule of the study of controls, and its plan."""

import re

import numpy as np
import pytest

from common.settings import load_settings
from tests.support.jobs import ROOT
from trainer.config import TrainConfig
from trainer.studies.config import CONTROLS, TREATMENT, ControlsSettings
from trainer.studies.control_decision import PLAN, PLANNED_MEASUREMENTS, decide, list_deviations, read_plan

PERMUTED, CENTER, LOWLEVEL = CONTROLS


def draw_figures(advantages, seeds=5, spread=0.2):
    """Return figures of the treatment and the controls; the treatment is better by the advantages (by control)."""
    generator = np.random.default_rng(1)
    common = generator.normal(50, 2, seeds)

    def by_seed(mean):
        return dict(enumerate(common + mean + spread * generator.normal(size=seeds)))

    return {TREATMENT: by_seed(0)} | {control: by_seed(-advantages.get(control, 1)) for control in CONTROLS}


def test_treatment_that_beats_all_controls_supports_the_hypothesis():
    decision = decide(draw_figures({}), 5)
    assert decision.verdict == "supported"
    assert [comparison.baseline for comparison in decision.comparisons] == list(CONTROLS)


@pytest.mark.parametrize("advantage", [0, -1])
def test_one_control_that_is_not_beaten_is_enough_for_no_support(advantage):
    decision = decide(draw_figures({CENTER: advantage}), 5)
    assert decision.verdict == "not supported"
    assert f"not significantly better than {CENTER}," in decision.reason
    assert (f"significantly worse than {CENTER}" in decision.reason) == (advantage < 0)


def test_p_is_corrected_for_the_three_comparisons():
    """Differences whose uncorrected p is below 0.05 are not enough."""
    base = np.array([50.0, 51, 49, 52, 50])
    differences = np.array([0.1, 0.8, 0.3, 0.7, 0.2])
    figures = {TREATMENT: dict(enumerate(base + differences))} | {name: dict(enumerate(base)) for name in CONTROLS}
    decision = decide(figures, 5)
    assert decision.comparisons[0].p < 0.05
    assert decision.comparisons[0].p_holm == pytest.approx(3 * decision.comparisons[0].p)
    assert decision.verdict == "not supported"


def test_missing_runs_leave_it_undecided_and_are_named():
    figures = draw_figures({})
    del figures[LOWLEVEL][3]
    decision = decide(figures, 5)
    assert decision.verdict == "undecided"
    assert decision.reason == f"1 of 20 planned runs that decide are missing: {LOWLEVEL} seed 3."
    assert decide({}, 5).verdict == "undecided"


def test_seeds_beyond_the_plan_do_not_change_the_decision():
    figures = draw_figures({}, seeds=8)
    planned = {recipe: {seed: by_seed[seed] for seed in range(5)} for recipe, by_seed in figures.items()}
    assert decide(figures, 5) == decide(planned, 5)


def test_deviations_from_the_plan_are_named():
    plan = {name: value for name, value in read_plan().items() if name != "seeds"}
    data = {"checksum": "c", "samples": 50_000, "classes": 100}
    assert list_deviations(plan, data, {}) == []
    assert list_deviations(plan | {"epochs": 3}, data | {"classes": 10}, {}) == [
        "epochs 3 instead of 30",
        "classes 10 instead of 100",
    ]
    del plan["epochs"]
    assert list_deviations(plan, data, {}) == ["epochs None instead of 30"]


def test_settings_that_the_plan_does_not_name_and_fewer_images_are_deviations_too():
    plan = {name: value for name, value in read_plan().items() if name != "seeds"}
    settings = TrainConfig(**plan).model_dump(mode="json", exclude={"recipe", "seed", "data"})
    data = {"checksum": "c", "samples": 2_000, "classes": 100}
    assert list_deviations(settings | {"learning_rate": 9.0, "min_crop": 0.5}, data, {}) == [
        "learning rate 9.0 instead of None",
        "min crop 0.5 instead of 0.08",
        "samples 2000 instead of 50000",
    ]


def test_other_images_and_corruptions_than_planned_are_deviations_of_the_suites_that_were_measured():
    plan = {name: value for name, value in read_plan().items() if name != "seeds"}
    data = {"checksum": "c", "samples": 50_000, "classes": 100}
    linear, corrupted = {"val": "v", "images": 10_000}, {"corrupted": 500, "severities": [1, 3, 5]}
    alignment = {"people": "p", "photographs": 7}
    planned = {"linear": linear, "alignment": alignment, "imagenet-c": linear | corrupted}
    assert list_deviations(plan, data, planned) == []
    other = {"linear": linear | {"images": 20}, "imagenet-c": {"images": 20, "corrupted": 2, "severities": [1]}}
    assert list_deviations(plan, data, other) == [
        "linear images 20 instead of 10000",
        "imagenet-c images 20 instead of 10000",
        "imagenet-c corrupted 2 instead of 500",
        "imagenet-c severities [1] instead of [1, 3, 5]",
    ]


def test_plan_is_valid_and_the_document_states_it():
    settings = load_settings(ControlsSettings, [f"--config={PLAN}", "--data=x"])
    assert read_plan().keys() - {"seeds"} <= TrainConfig.model_fields.keys()
    text = (ROOT / "trainer/studies/STUDY.md").read_text()
    assert f"{settings.seeds} seeds" in text
    assert f"{settings.epochs} epochs" in text
    assert f"batches of {settings.batch_size}" in text
    corrupted = PLANNED_MEASUREMENTS["imagenet-c"]
    assert (settings.corrupted_images, settings.severities) == (corrupted["corrupted"], corrupted["severities"])
    assert f"{corrupted['images']:,}\nimages of `val/`" in text
    assert f"{corrupted['corrupted']} images of `val/`" in text
    assert set(re.findall(r"`(contrastive[\w-]*)`", text)) == set(settings.recipes.split(","))
