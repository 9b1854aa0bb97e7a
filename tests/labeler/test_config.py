"""Tests of the labeler's settings."""

import os

import pytest

from labeler.config import LabelSettings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of this shell."""
    for name in list(os.environ):
        if name.startswith("LABELER_"):
            monkeypatch.delenv(name)


def test_defaults_determine_the_documented_bytes() -> None:
    """A default that changes gives other shards, and data sets made before can no longer be resumed or extended."""
    settings = LabelSettings()
    assert settings.label_config().model_dump() == {
        "samples_per_shard": 1000,
        "map_size": 224,
        "seed": 0,
        "limit": None,
        "include_images": True,
        "gaze_threshold": 0.2,  # paper, section 3.3
        "max_gaze_points": 200,
        "max_pixels": 100_000_000,
        "min_side": 8,
        "batch_size": None,
        "map_encoder": None,
    }
    assert (settings.input, settings.teacher) == ("demo:photos", "bundled")
    assert settings.max_bad_fraction == 0.1
