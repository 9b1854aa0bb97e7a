import shutil

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from common.errors import UserError
from tests.support.evaluation import MODEL_NAMES, evaluate, read_results
from trainer.evaluate.suites import retrieval


def test_curves_follow_from_the_saved_features_labels_and_queries(report):
    for name in MODEL_NAMES:
        file = np.load(report / "retrieval" / f"{name.replace(' ', '-')}-imagenet.npz")
        features, labels, queries = file["features"], file["labels"], file["queries"]
        assert (len(features), len(queries)) == (24, 5)
        database = np.setdiff1d(np.arange(24), queries)
        search = NearestNeighbors(n_neighbors=19, metric="cosine", algorithm="brute").fit(features[database])
        neighbors = search.kneighbors(features[queries], return_distance=False)
        hits = labels[database][neighbors] == labels[queries][:, None]
        curve = read_results(report)[name]["retrieval"]["imagenet"]["clean"]
        assert curve["k"] == [1, 2, 5, 10, 19]
        for k, precision, recall in zip(curve["k"], curve["precision"], curve["recall"], strict=True):
            assert precision == pytest.approx(hits[:, :k].mean(), abs=1e-6)
            assert recall == pytest.approx((hits[:, :k].sum(1) / hits.sum(1)).mean(), abs=1e-6)


def test_corrupted_sets_are_searched_by_severity_and_corruption(report):
    results = read_results(report)[MODEL_NAMES[0]]["retrieval"]
    for data in ("imagenet", "cifar10"):
        assert set(results[data]) == {"clean", "2", "5", "corruptions"}
        assert results[data]["corruptions"]["fog"]["5"] == results[data]["5"]  # the mean over one corruption


@pytest.fixture
def searched(monkeypatch):
    """List that gets the queries of each search, as indices in the image set."""
    searched, search = [], retrieval.search

    def record_and_search(features, queries, device):
        searched.append(features.indices[queries].tolist())
        return search(features, queries, device)

    monkeypatch.setattr(retrieval, "search", record_and_search)
    return searched


def test_queries_can_be_read_in_every_set_and_are_the_same_in_all(checkpoints, val, tmp_path, searched):
    for severity in ("1", "2"):
        shutil.copytree(val, tmp_path / "c" / "fog" / severity)
    flags = ["--suite=retrieval", f"--val={val}", f"--imagenet-c={tmp_path / 'c'}", "--corruptions=fog", "--queries=10"]
    flags.append("--severities=1,2")
    evaluate(checkpoints[:1], tmp_path / "sound", *flags)
    first, *others = searched
    assert len(first) == 10
    assert others == [first, first]
    searched.clear()
    broken = sorted((tmp_path / "c/fog/2").rglob("*.jpg"))[first[3]]
    broken.write_bytes(b"no image")
    evaluate(checkpoints[:1], tmp_path / "broken", *flags)
    assert searched[1:] == [searched[0]] * 2
    assert len(searched[0]) == 10
    assert set(first) - set(searched[0]) == {first[3]}
    curve = read_results(tmp_path / "broken")[MODEL_NAMES[0]]["retrieval"]["imagenet"]["2"]
    assert curve["queries"] + curve["queries_without_relevant"] == 10


def test_as_many_queries_as_readable_images_raise_an_error(checkpoints, val, tmp_path):
    shutil.copytree(val, tmp_path / "val")
    for path in sorted((tmp_path / "val").rglob("*.jpg"))[:2]:
        path.write_bytes(b"no image")
    flags = ["--suite=retrieval", f"--val={tmp_path / 'val'}", "--queries=22"]
    with pytest.raises(UserError, match="22 of 24 images can be read in every set, expected more than the 22 queries"):
        evaluate(checkpoints[:1], tmp_path / "out", *flags)
