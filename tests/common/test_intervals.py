import numpy as np
import pytest
from scipy.stats import bootstrap

from common.intervals import bootstrap_mean


def test_interval_equals_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(1).gamma(2, 0.2, 60)
    result = bootstrap_mean(values, seed=0)
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2))
    assert result["mean"] == pytest.approx(values.mean())
    assert result["ci95"] == pytest.approx(list(expected.confidence_interval), abs=0.006)


def test_interval_covers_the_true_mean_at_about_its_nominal_rate() -> None:
    generator = np.random.default_rng(0)
    intervals = [bootstrap_mean(generator.normal(0.4, 0.2, 40), seed)["ci95"] for seed in range(60)]
    assert 0.85 < np.mean([low <= 0.4 <= high for low, high in intervals]) <= 1


def test_interval_is_determined_by_the_seed() -> None:
    values = np.random.default_rng(1).uniform(0, 1, 30)
    assert bootstrap_mean(values, 5) == bootstrap_mean(values, 5)
    assert bootstrap_mean(values, 5)["ci95"] != bootstrap_mean(values, 6)["ci95"]


def test_images_without_a_score_are_excluded_from_the_mean() -> None:
    assert bootstrap_mean(np.array([np.nan, 0.25, np.nan]), 0) == {"mean": 0.25, "ci95": [0.25, 0.25], "images": 1}
    assert bootstrap_mean(np.array([np.nan]), 0) == {"mean": None, "ci95": None, "images": 0}
