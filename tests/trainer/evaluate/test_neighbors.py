import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors
from torchmetrics.functional.retrieval import retrieval_precision, retrieval_recall

from common.errors import UserError
from trainer.evaluate.features import FeatureSet
from trainer.evaluate.neighbors import (
    average_curves,
    choose_ks,
    curve_to_json,
    draw_queries,
    precision_recall,
    search,
)

CPU = torch.device("cpu")


def made_up(images, classes, channels=16, seed=0):
    """Features whose classes overlap."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    rows = generator.normal(size=(classes, channels))[labels] + 2 * generator.normal(size=(images, channels))
    return FeatureSet(rows.astype(np.float32), labels, np.arange(images), {})


def parts(found, queries):
    rows, labels = F.normalize(torch.from_numpy(found.rows)), torch.from_numpy(found.labels)
    others = np.setdiff1d(np.arange(len(rows)), queries)
    return rows[queries], labels[queries], rows[others], labels[others]


def test_precision_and_recall_are_those_of_torchmetrics():
    found, queries = made_up(300, 7), np.arange(0, 300, 6)
    asked, asked_labels, base, base_labels = parts(found, queries)
    curve = search(found, queries, CPU)
    for k in (1, 2, 5, 20, 100, len(base)):  # torchmetrics takes scores below 0 for irrelevant
        for mine, theirs in ((curve.precision, retrieval_precision), (curve.recall, retrieval_recall)):
            expected = [
                theirs(base @ row + 2, base_labels == label, top_k=k).item()
                for row, label in zip(asked, asked_labels, strict=True)
            ]
            assert mine[k - 1] == pytest.approx(np.mean(expected), abs=1e-6)


def test_neighbours_are_those_of_scikit_learn():
    found, queries = made_up(400, 5, seed=1), np.arange(40)
    asked, asked_labels, base, base_labels = parts(found, queries)
    neighbours = NearestNeighbors(n_neighbors=50, metric="cosine", algorithm="brute").fit(base.numpy())
    order = neighbours.kneighbors(asked.numpy(), return_distance=False)
    hits = (base_labels.numpy()[order] == asked_labels.numpy()[:, None]).mean(0)
    expected = hits.cumsum() / np.arange(1, 51)
    assert search(found, queries, CPU).precision[:50] == pytest.approx(expected, abs=1e-9)


def test_queries_are_searched_in_chunks_of_any_size(monkeypatch):
    found, queries = made_up(300, 40), np.arange(70)
    whole = search(found, queries, CPU)
    monkeypatch.setattr("trainer.evaluate.neighbors.QUERIES_PER_CHUNK", 9)
    pieces = search(found, queries, CPU)
    assert pieces.precision == pytest.approx(whole.precision)
    assert pieces.recall == pytest.approx(whole.recall)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and TEST_GPU=1")
def test_a_gpu_finds_what_a_cpu_finds():
    found, queries = made_up(3000, 40), np.arange(700)
    mine, theirs = search(found, queries, torch.device("cuda")), search(found, queries, CPU)
    assert mine.precision == pytest.approx(theirs.precision, abs=1e-3)


def test_ties_count_against_the_model():
    row = F.normalize(torch.ones(1, 4))
    curve = precision_recall(row, torch.tensor([0]), row.expand(4, 4), torch.tensor([0, 1, 1, 0]))
    assert curve.precision.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert curve.recall.tolist() == [0, 0, 0.5, 1]


def test_queries_without_an_image_of_their_class_are_left_out_and_counted():
    rows = torch.eye(4)
    curve = precision_recall(rows[:2], torch.tensor([0, 9]), rows[:3], torch.tensor([0, 1, 1]))
    assert (curve.queries, curve.without) == (1, 1)
    assert curve.precision[0] == curve.recall[0] == 1
    with pytest.raises(UserError, match="no query has an image of its class"):
        precision_recall(rows[:1], torch.tensor([9]), rows, torch.tensor([0, 1, 2, 3]))


def test_the_seed_draws_the_queries_and_unreadable_ones_are_left_out():
    found = made_up(50, 3)
    drawn = draw_queries(found, 50, 10, seed=3)
    assert len(drawn) == len(set(drawn.tolist())) == 10
    assert drawn.tolist() == draw_queries(found, 50, 10, seed=3).tolist()
    assert drawn.tolist() != draw_queries(found, 50, 10, seed=4).tolist()
    readable = np.delete(np.arange(50), drawn[0])
    partly = FeatureSet(found.rows[readable], found.labels[readable], readable, {"x": "broken"})
    assert partly.indices[draw_queries(partly, 50, 10, seed=3)].tolist() == drawn[1:].tolist()


def test_a_curve_is_told_at_many_k_up_to_the_whole_database():
    assert choose_ks(1) == [1]
    assert choose_ks(50) == [1, 2, 5, 10, 20, 50]
    assert choose_ks(234) == [1, 2, 5, 10, 20, 50, 100, 200, 234]
    told = curve_to_json(search(made_up(60, 3), np.arange(20), CPU))
    assert told["k"] == [1, 2, 5, 10, 20, 40]
    assert told["recall"][-1] == pytest.approx(1)


def test_the_mean_of_curves_is_that_of_their_values():
    curves = [search(made_up(60, 3, seed=seed), np.arange(20), CPU) for seed in range(3)]
    expected = np.mean([curve.precision for curve in curves], axis=0)
    assert average_curves(curves).precision == pytest.approx(expected)
