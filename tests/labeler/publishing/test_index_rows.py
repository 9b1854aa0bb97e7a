"""Tests of the figures that the index states about a sample, and of the sums over samples."""

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy

from common.shards import ByteRange, Sample, SampleInfo
from labeler.inspection.shard_statistics import to_statistics_rows
from labeler.inspection.summary import summarize_gaze
from labeler.publishing.index_rows import ROWS_PER_BATCH, SCHEMA, ShardRows, index_sample
from labeler.publishing.index_sums import SampleSums
from labeler.publishing.map_measures import sum_by_cell


def make_sample(points: list[list[float]], attention: np.ndarray | None = None, **info: Any) -> Sample:
    defaults: dict[str, Any] = {
        **{"source": "a.jpg", "wnid": "", "width": 64, "height": 48, "exif_orientation": 1, "source_sha256": "0" * 64},
        **{"reencoded_from": "", "teacher": "tests", "map_max": 1.0, "gaze_points": len(points)},
    }
    gaze = np.array(points, np.float32).reshape(len(points), -1) if points else np.zeros((0, 3), np.float32)
    pixels = np.full((8, 8), 255, np.uint8) if attention is None else attention
    return Sample("000000000", None, None, SampleInfo(**defaults | info), pixels, gaze)


def collect(samples: list[Sample]) -> ShardRows:
    rows = ShardRows("train-000000.tar")
    for sample in samples:
        rows.add(index_sample(sample), {"json": ByteRange(512, 3)})
    return rows


def test_figures_of_a_map_match_independent_ones() -> None:
    attention = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    row = index_sample(make_sample([[0.5, 0.5, 1]], attention, map_max=0.25)).row
    assert row["map_mean"] == pytest.approx(np.mean(attention / 255))
    assert row["map_area"] == pytest.approx(np.exp(entropy(attention.ravel().astype(float))) / 1024)
    assert (row["map_max"], row["gaze_points"]) == (0.25, 1)


def test_rows_have_nulls_for_members_and_classes_that_are_absent() -> None:
    table = collect([make_sample([])]).to_table()
    assert table.schema == SCHEMA
    row = table.to_pylist()[0]
    assert (row["json_offset"], row["json_size"], row["shard"]) == (512, 3, "train-000000.tar")
    assert {name for name, value in row.items() if value is None} == {
        *("class", "phash", "jpg_offset", "jpg_size", "cls_offset", "cls_size"),
        *("attn_png_offset", "attn_png_size", "gaze_npy_offset", "gaze_npy_size"),
    }


def test_rows_of_a_large_shard_stay_in_their_order() -> None:
    indexed = index_sample(make_sample([]))
    rows = ShardRows("train-000000.tar")
    for number in range(2 * ROWS_PER_BATCH + 1):
        rows.add(indexed, {"jpg": ByteRange(number, 1)})
    assert rows.to_table()["jpg_offset"].to_pylist() == list(range(2 * ROWS_PER_BATCH + 1))


def test_images_without_points_are_counted() -> None:
    points = [[], [[0.2, 0.4, 1], [0.4, 0.8, 0.5]], [], [[0.6, 0.6, 1]]]
    rows = collect([make_sample(of_image) for of_image in points])
    found = summarize_gaze(to_statistics_rows(rows.to_table()), rows.sums, cap=2)
    assert (found["points"], found["share_without"], found["share_at_cap"]) == (3, 0.5, 0.25)
    assert found["mean_position"] == pytest.approx([0.4, 0.6])
    assert found["spread"] == pytest.approx([np.std([0.2, 0.4, 0.6]), np.std([0.4, 0.8, 0.6])])
    assert found["mean_strength"] == pytest.approx(2.5 / 3)


@pytest.mark.parametrize(
    "invalid",
    [make_sample([[0.5, 0.5]]), make_sample([[0.5, 0.5, float("nan")]]), make_sample([], map_max=float("inf"))],
    ids=["no strengths", "NaN", "infinite maximum"],
)
def test_an_invalid_sample_has_no_row(invalid: Sample) -> None:
    with pytest.raises(ValueError, match="expected finite numbers"):
        index_sample(invalid)


def test_sums_survive_their_encoding_bit_by_bit() -> None:
    generator = np.random.default_rng(1)
    samples = [
        make_sample(generator.random((3, 3)).tolist(), generator.integers(0, 256, (50, 50), dtype=np.uint8), **info)
        for info in ({"reencoded_from": "PNG RGB"}, {"exif_orientation": 6}, {"reencoded_from": "PNG RGB"})
    ]
    sums = collect(samples).sums
    decoded = SampleSums.from_json(sums.to_json())
    assert np.array_equal(decoded.mass, sums.mass)
    assert np.array_equal(decoded.points, sums.points)
    assert np.array_equal(decoded.squares, sums.squares)
    assert (decoded.turned, decoded.reencoded) == (1, {"PNG RGB": 2})
    assert np.allclose(sums.mass, sum(sum_by_cell(sample.attention) for sample in samples))


@pytest.mark.parametrize(
    "content", ["", "7", "{}", '{"mass": [1], "points": [], "squares": [], "turned": 0, "reencoded": {}}']
)
def test_other_content_is_not_taken_for_sums(content: str) -> None:
    with pytest.raises(ValueError, match=r"sums|Expecting"):
        SampleSums.from_json(content.encode())
    assert json.loads(SampleSums().to_json())["turned"] == 0
