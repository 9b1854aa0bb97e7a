import csv
import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from trainer.studies.search import Trial
from trainer.studies.search_report import describe_best, describe_uncertainty, save_trials


def test_trials_are_saved_as_csv_json_and_a_plot(tmp_path):
    trials = [
        Trial(1.0, 0.1, (0.5, 0.75), False),
        Trial(0.2, 0.5, (0.5, 0.7), False),
        Trial(4.0, 0.02, (0.4, 0.6), False),
        Trial(0.1, 1.0, (0.3,), True),
    ]
    assert "--kld-weight 1.0 --nss-weight 0.1, accuracy 75.00%" in save_trials(trials, str(tmp_path))
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [(row["held_out_accuracy"], row["epochs"], row["stopped"]) for row in rows][2:] == [
        ("0.600000", "2", "False"),
        ("0.300000", "1", "True"),
    ]
    assert json.loads((tmp_path / "trials.json").read_text())[0]["accuracies"] == [0.5, 0.75]
    assert Image.open(tmp_path / "surface.png").size[0] > 500


def test_single_trial_is_drawn_without_contours(tmp_path):
    save_trials([Trial(1.0, 0.1, (0.5, 0.75), False)], str(tmp_path))
    assert Image.open(tmp_path / "surface.png").size[0] > 500


def wilson_interval(accuracy, images):
    """Solve |accuracy - p| = z * sqrt(p * (1 - p) / images) for p."""
    z = stats.norm.isf(0.025)
    return sorted(np.roots([1 + z**2 / images, -2 * accuracy - z**2 / images, accuracy**2]))


def test_best_accuracy_has_an_interval_and_the_trials_within_it_are_named(tmp_path):
    trials = [
        Trial(1.0, 0.1, (0.5, 0.75), False, 400),
        Trial(0.2, 0.5, (0.72,), True, 400),
        Trial(4.0, 0.02, (0.4, 0.7), False, 400),
    ]
    low, high = wilson_interval(0.75, 400)
    assert 0.7 < low < 0.72
    assert trials[0].interval() == pytest.approx((low, high))
    text = save_trials(trials, str(tmp_path))
    assert f"accuracy 75.00% (95 % interval {low:.2%} to {high:.2%})" in describe_best(trials)
    assert "1 of the 2 other trials lie within the best one's interval (0.2 and 0.5)." in describe_uncertainty(trials)
    assert "optimistic" in text
    assert (tmp_path / "trials.md").read_text() == f"{text}\n"
    assert json.loads((tmp_path / "trials.json").read_text())[0]["ci95"] == pytest.approx([low, high])
    row = next(csv.DictReader((tmp_path / "trials.csv").open()))
    assert float(row["ci95_low"]) == pytest.approx(low, abs=1e-5)


def test_trials_without_a_number_of_images_have_no_interval():
    trials = [Trial(1.0, 0.1, (0.75,), False), Trial(2.0, 0.1, (0.7,), False)]
    assert trials[0].interval() is None
    assert "interval" not in describe_best(trials) + describe_uncertainty(trials)
    assert "optimistic" in describe_uncertainty(trials)
