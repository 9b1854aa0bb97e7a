import csv
import io

import numpy as np
import pytest

from common.alignment import METRICS, SUMMARY_METRICS
from labeler.teacher.evaluation.scoring import ImageScores
from labeler.teacher.evaluation.summary import (
    PREDICTIONS,
    Evaluation,
    format_per_image_csv,
    format_table,
    list_scores_per_image,
    summarize,
)


def scores(value: float, **others: float) -> dict[str, float]:
    return {**dict.fromkeys(METRICS, value), **others}


def evaluation() -> Evaluation:
    """Three images: one ordinary, one with a constant map and without halves, one without a shuffled AUC."""
    image_scores = [
        ImageScores("a.jpg", scores(0.5), scores(0.1), scores(0.9), False),
        ImageScores("b, c.jpg", scores(0.0), scores(0.2), None, True),
        ImageScores("d.jpg", scores(1.0, auc_shuffled=np.nan), scores(0.3), scores(0.7), False),
    ]
    return Evaluation("csv:data", [], image_scores, {"images without a fixation": 2})


def test_summary_counts_images_and_averages_scores() -> None:
    summary = summarize(evaluation(), seed=0)
    assert (summary["images"], summary["left_out"]) == (3, {"images without a fixation": 2})
    assert (summary["constant_maps"], summary["without_split_half"]) == (1, 1)
    assert summary["teacher"]["cc"]["mean"] == pytest.approx(0.5)
    assert summary["teacher"]["shuffled_auc"]["mean"] == pytest.approx(0.25)
    assert summary["teacher"]["shuffled_auc"]["images"] == 2
    assert summary["centre_prior"]["nss"]["mean"] == pytest.approx(0.2)
    assert summary["human_split_half"]["cc"]["mean"] == pytest.approx(0.8)


def test_table_is_aligned_and_holds_every_mean() -> None:
    lines = format_table("csv:data", summarize(evaluation(), seed=0)).splitlines()
    assert lines[0] == "csv:data: 3 images, mean [95 % interval]"
    starts = [lines[1].index(name) for name in PREDICTIONS.values()]
    for line, label in zip(lines[2:], SUMMARY_METRICS.values(), strict=True):
        assert line.startswith(label)
        assert all(line[start - 1] == " " and line[start].isdigit() for start in starts)
    assert lines[2][starts[2] :].startswith("0.800 [0.700, 0.900]")


def test_csv_has_a_row_per_image_with_empty_cells_for_undefined_scores() -> None:
    rows = list(
        csv.DictReader(io.StringIO(format_per_image_csv([evaluation(), evaluation()._replace(data="csv:more")])))
    )
    assert list(rows[0]) == ["data", "image", *METRICS, "shuffled_auc", "human_split_half_cc"]
    assert [row["image"] for row in rows] == ["a.jpg", "b, c.jpg", "d.jpg"] * 2
    assert [row["data"] for row in rows] == ["csv:data"] * 3 + ["csv:more"] * 3
    assert [row["cc"] for row in rows[:3]] == ["0.5", "0", "1"]
    assert [row["auc_shuffled"] for row in rows[:3]] == ["0.5", "0", ""]
    assert all(row["shuffled_auc"] == row["auc_shuffled"] for row in rows)
    assert [row["human_split_half_cc"] for row in rows[:3]] == ["0.9", "", "0.7"]


def test_objects_hold_none_for_undefined_scores() -> None:
    images = list_scores_per_image(evaluation())
    assert images[1]["human_split_half"] is None
    assert images[2]["teacher"]["auc_shuffled"] is images[2]["teacher"]["shuffled_auc"] is None
    assert [image["constant_map"] for image in images] == [False, True, False]
