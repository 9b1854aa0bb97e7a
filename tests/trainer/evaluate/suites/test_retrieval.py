import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from tests.support.evaluation import MODEL_NAMES, read_results


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
