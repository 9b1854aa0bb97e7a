"""Tests of the sums over samples."""

from typing import Any

import numpy as np
import pytest

from common.shards import Sample, SampleInfo
from labeler.inspection.shard_statistics import SampleSums
from labeler.inspection.summary import summarize_gaze


def make_sample(points: list[list[float]], **info: Any) -> Sample:
    defaults: dict[str, Any] = {
        **{"source": "a.jpg", "wnid": "", "width": 64, "height": 48, "exif_orientation": 1, "source_sha256": "0" * 64},
        **{"reencoded_from": "", "teacher": "tests", "map_max": 1.0, "gaze_points": len(points)},
    }
    gaze = np.array(points, np.float32).reshape(len(points), -1) if points else np.zeros((0, 3), np.float32)
    return Sample("000000000", None, None, SampleInfo(**defaults | info), np.full((8, 8), 255, np.uint8), gaze)


def test_images_without_points_are_counted() -> None:
    sums = SampleSums()
    points = [[], [[0.2, 0.4, 1], [0.4, 0.8, 0.5]], [], [[0.6, 0.6, 1]]]
    rows = np.array([sums.add(make_sample(of_image)) for of_image in points])
    found = summarize_gaze(rows, sums, cap=2)
    assert (found["points"], found["share_without"], found["share_at_cap"]) == (3, 0.5, 0.25)
    assert found["mean_position"] == pytest.approx([0.4, 0.6])
    assert found["spread"] == pytest.approx([np.std([0.2, 0.4, 0.6]), np.std([0.4, 0.8, 0.6])])
    assert found["mean_strength"] == pytest.approx(2.5 / 3)


@pytest.mark.parametrize(
    "invalid",
    [make_sample([[0.5, 0.5]]), make_sample([[0.5, 0.5, float("nan")]]), make_sample([], map_max=float("inf"))],
    ids=["no strengths", "NaN", "infinite maximum"],
)
def test_an_invalid_sample_changes_no_sum(invalid: Sample) -> None:
    sums = SampleSums()
    with pytest.raises(ValueError, match="expected finite numbers"):
        sums.add(invalid)
    assert not sums.mass.any()
    assert not sums.points.any()
