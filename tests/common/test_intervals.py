import numpy as np
import pytest
from scipy.stats import bootstrap

from common.intervals import bootstrap_mean


def test_the_interval_is_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(1).gamma(2, 0.2, 60)
    found = bootstrap_mean(values, seed=0)
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2))
    assert found["mean"] == pytest.approx(values.mean())
    assert found["ci95"] == pytest.approx(list(expected.confidence_interval), abs=0.006)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    intervals = [bootstrap_mean(generator.normal(0.4, 0.2, 40), seed)["ci95"] for seed in range(60)]
    assert 0.85 < np.mean([low <= 0.4 <= high for low, high in intervals]) <= 1


def test_the_seed_decides_the_interval() -> None:
    values = np.random.default_rng(1).uniform(0, 1, 30)
    assert bootstrap_mean(values, 5) == bootstrap_mean(values, 5)
    assert bootstrap_mean(values, 5)["ci95"] != bootstrap_mean(values, 6)["ci95"]


def test_images_without_a_score_are_left_out_of_a_mean() -> None:
    assert bootstrap_mean(np.array([np.nan, 0.25, np.nan]), 0) == {"mean": 0.25, "ci95": [0.25, 0.25], "images": 1}
    assert bootstrap_mean(np.array([np.nan]), 0) == {"mean": None, "ci95": None, "images": 0}
