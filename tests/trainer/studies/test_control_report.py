"""The summary of the study of controls."""

import csv

import pytest
from scipy import stats

from common.errors import UserError
from tests.support.study import make_result, write_results
from trainer.studies import summarize
from trainer.studies.config import BASELINE, CONTROLS, TREATMENT

SEEDS = range(5)


def top1(recipe, seed):
    """Return a made-up accuracy: the treatment is better than all others, by different amounts for the seeds."""
    number = (BASELINE, TREATMENT, *CONTROLS).index(recipe)
    return 0.5 + 0.01 * seed + (0.05 + 0.002 * (seed % 2) if recipe == TREATMENT else 0.001 * (number * seed % 3))


def write_study(folder, recipes=(BASELINE, TREATMENT, *CONTROLS), seeds=SEEDS, images=10_000, **settings):
    results = [make_result(recipe, seed, top1(recipe, seed), 0.2, **settings) for recipe in recipes for seed in seeds]
    for result in results:
        result.measured["linear"].of["images"] = images
    return write_results(folder, *results)


def test_summary_states_decision_means_and_paired_comparisons(tmp_path, capsys):
    assert summarize.main([str(write_study(tmp_path))]) == 0
    text = (tmp_path / "study.md").read_text()
    assert text in capsys.readouterr().out
    assert "**supported**: contrastive-attn-teacher is significantly better than all three controls." in text
    assert "exploratory" not in text
    assert "Not measured: top-1, corrupted, offline probe (%), CC, permuted" in text
    values = [[100 * top1(recipe, seed) for seed in SEEDS] for recipe in (TREATMENT, CONTROLS[0])]
    test = stats.ttest_rel(*values)
    low, high = test.confidence_interval(0.95)
    difference = f"{sum(values[0]) / 5 - sum(values[1]) / 5:+.2f}"
    assert f"| {TREATMENT} | {CONTROLS[0]} | 5 | {difference} | [{low:+.2f}, {high:+.2f}]" in text
    rows = list(csv.DictReader((tmp_path / "study.csv").open()))
    assert len(rows) == 25
    assert {(row["cc"], row["nss"]) for row in rows} == {("0.2", "")}
    page = (tmp_path / "study.html").read_text()
    assert "is significantly better than all three controls" in page
    assert "<polyline" in page


def test_summary_of_another_scale_is_called_exploratory(tmp_path):
    summarize.main([str(write_study(tmp_path / "results", epochs=3)), f"--output={tmp_path / 'summary'}"])
    text = (tmp_path / "summary/study.md").read_text()
    assert "exploratory, because they deviate from the planned study: epochs 3 instead of 30." in text
    assert not (tmp_path / "results/study.md").exists()


def test_summary_of_other_validation_images_is_called_exploratory(tmp_path):
    summarize.main([str(write_study(tmp_path, images=5_000))])
    text = (tmp_path / "study.md").read_text()
    assert "because they deviate from the planned study: linear images 5000 instead of 10000." in text


def test_seeds_missing_from_one_arm_are_excluded_and_named(tmp_path):
    write_study(tmp_path)
    (tmp_path / f"{CONTROLS[1]}-seed2.json").unlink()
    summarize.main([str(tmp_path)])
    text = (tmp_path / "study.md").read_text()
    assert f"**undecided**: 1 of 20 planned runs that decide are missing: {CONTROLS[1]} seed 2." in text
    assert f"{TREATMENT} - {CONTROLS[1]}: 1 seed that only one of them has excluded: 2." in text
    assert f"| {TREATMENT} | {CONTROLS[1]} | 4 |" in text


@pytest.mark.parametrize("recipes", [(BASELINE,), (TREATMENT,), ("supervised",), (BASELINE, TREATMENT)])
def test_few_runs_are_summarized_without_a_decision(tmp_path, recipes):
    if "supervised" in recipes:
        write_results(tmp_path, make_result("supervised", 0, 0.5))
    else:
        write_study(tmp_path, recipes, [0])
    summarize.main([str(tmp_path)])
    text = (tmp_path / "study.md").read_text()
    assert "**undecided**" in text
    assert "nan" not in text


def test_results_of_other_scales_do_not_mix(tmp_path):
    write_study(tmp_path, [BASELINE], [0])
    write_study(tmp_path, [TREATMENT], [0], epochs=3)
    with pytest.raises(UserError, match=r"contrastive-seed0\.json differs from .*: epochs is 30, not 3"):
        summarize.main([str(tmp_path)])
    assert not (tmp_path / "study.md").exists()
