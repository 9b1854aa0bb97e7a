"""Tests of the statistics, compared with what tarfile, Pillow and NumPy read from the same shards."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy

from common.sources import open_source
from common.storage import LocalStorage
from labeler.config import LabelConfig
from labeler.planning.generations import save_later_plan
from labeler.planning.plan import make_plan
from labeler.publishing.publish import publish
from labeler.stats import compute_statistics
from tests.support.jobs import TEACHER, photographs, planned
from tests.support.labeled import MAX_GAZE_POINTS, ShardContents, label_shards

TOTALS = ["complete", "shards", "samples", "bytes"]
SECTIONS = ["classes", "maps", "gaze", "images", "duplicates", "failures", "unreadable"]


def blocks(attention: np.ndarray, parts: int) -> np.ndarray:
    """Sum a square map over parts x parts equal blocks, exactly: split each pixel into parts x parts smaller ones."""
    side = len(attention)
    fine = np.kron(attention, np.ones((parts, parts))) / parts**2
    return fine.reshape(parts, side, parts, side).sum(axis=(1, 3))


@pytest.mark.parametrize("workers", [1, 3])
def test_totals_match_the_content_of_the_tars(varied_dataset: Path, workers: int) -> None:
    report, problems = compute_statistics(str(varied_dataset), workers)
    contents = ShardContents(varied_dataset)
    assert not problems
    assert list(report) == TOTALS + SECTIONS
    assert (report["complete"], report["shards"], report["samples"]) == (True, 4, len(contents.infos))
    assert report["bytes"] == sum(path.stat().st_size for path in varied_dataset.glob("*.tar"))
    assert report["failures"] == {"empty": 2, "not_an_image": 1}
    assert report["unreadable"] == []


def test_map_statistics_match_the_maps(varied_dataset: Path) -> None:
    maps, contents = compute_statistics(str(varied_dataset), 1)[0]["maps"], ShardContents(varied_dataset)
    mean_map = np.mean(contents.maps, axis=0)
    assert maps["mean"] == pytest.approx(mean_map.mean())
    assert maps["area"] == pytest.approx(np.mean([np.exp(entropy(m.ravel())) / m.size for m in contents.maps]))
    assert maps["map_max"] == contents.quantiles(contents.column("map_max"))
    assert np.allclose(maps["grid_percent"], 100 * blocks(mean_map, 7) / mean_map.sum())
    assert np.sum(maps["grid_percent"]) == pytest.approx(100)
    assert maps["central_third_percent"] == pytest.approx(100 * blocks(mean_map, 3)[1, 1] / mean_map.sum())
    assert maps["central_third_percent"] > 100 / 9  # the maps of this teacher are strongest in the center


def test_gaze_statistics_match_the_points(varied_dataset: Path) -> None:
    gaze, contents = compute_statistics(str(varied_dataset), 1)[0]["gaze"], ShardContents(varied_dataset)
    counts, points = [len(points) for points in contents.points], np.concatenate(contents.points)
    assert min(counts) < max(counts) == MAX_GAZE_POINTS
    assert gaze.pop("per_image") == {"mean": pytest.approx(np.mean(counts)), **contents.quantiles(counts).expected}
    assert gaze == {
        "points": len(points),
        "share_without": 0,
        "cap": MAX_GAZE_POINTS,
        "share_at_cap": pytest.approx(np.mean([count == MAX_GAZE_POINTS for count in counts])),
        "mean_strength": pytest.approx(points[:, 2].mean()),
        "mean_position": pytest.approx(points[:, :2].mean(axis=0)),
        "spread": pytest.approx(points[:, :2].std(axis=0)),
    }


def test_image_statistics_match_the_images(varied_dataset: Path) -> None:
    images, contents = compute_statistics(str(varied_dataset), 1)[0]["images"], ShardContents(varied_dataset)
    assert images == {
        "width": contents.quantiles(contents.column("width")),
        "height": contents.quantiles(contents.column("height")),
        "turned": 2,
        "reencoded": {"PNG RGB": 1, "WEBP RGB": 2},
    }


def test_class_balance_names_the_extreme_and_the_empty_classes(varied_dataset: Path) -> None:
    classes, counts = (
        compute_statistics(str(varied_dataset), 1)[0]["classes"],
        Counter(ShardContents(varied_dataset).classes),
    )
    assert counts == {0: 13, 1: 10, 2: 12}
    assert classes == {
        "classes": 4,
        "fewest": {"samples": 10, "classes": 1, "names": ["class1"]},
        "median": 12,
        "most": {"samples": 13, "classes": 1, "names": ["class0"]},
        "imbalance": pytest.approx(1.3),
        "without_samples": ["class3"],
    }


def test_duplicates_are_found_by_the_checksum_of_their_source(varied_dataset: Path) -> None:
    duplicates, contents = compute_statistics(str(varied_dataset), 1)[0]["duplicates"], ShardContents(varied_dataset)
    groups = defaultdict(list)
    for info in contents.infos:
        groups[info["source_sha256"]].append(info["source"])
    repeated = {digest: sources for digest, sources in groups.items() if len(sources) > 1}
    largest = sorted(repeated, key=lambda digest: -len(repeated[digest]))
    assert {frozenset(sources) for sources in repeated.values()} == {
        frozenset(["class0/photo000.jpg", "class0/again0.jpg", "class0/again1.jpg", "class0/again2.jpg"]),
        frozenset(["class1/photo001.jpg", "class2/elsewhere.jpg"]),
    }
    assert duplicates == {
        "groups": 2,
        "surplus": 4,
        "groups_across_classes": 1,
        "images_across_classes": 2,
        "largest": [
            {"source_sha256": digest, "images": len(repeated[digest]), "sources": repeated[digest]}
            for digest in largest
        ],
    }


def test_a_later_generation_is_counted_and_unfinished_until_it_is_published(tmp_path: Path) -> None:
    images, output = photographs(tmp_path / "images", 6, classes=2), tmp_path / "out"
    first = planned(images, output, samples_per_shard=4, map_size=20)
    label_shards(first, output)
    storage = LocalStorage(output)
    publish(storage, [first], 0)
    new = photographs(tmp_path / "new", 3, classes=3)
    later, table = make_plan(open_source(str(new)).list(), LabelConfig(map_size=20), TEACHER, str(new), first)
    save_later_plan(storage, later, table)
    assert compute_statistics(str(output), 1)[0]["complete"] is False
    label_shards(later, output)
    report = compute_statistics(str(output), 1)[0]
    assert (report["complete"], report["samples"], report["classes"]["classes"]) == (False, 9, 3)
    publish(storage, [first, later], 0)
    report = compute_statistics(str(output), 1)[0]
    assert (report["complete"], report["shards"], report["samples"]) == (True, 3, 9)
    assert report["duplicates"]["groups"] == 3  # the new images have the same bytes as the first three
