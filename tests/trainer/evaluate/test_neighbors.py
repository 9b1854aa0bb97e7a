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


def random_features(images, classes, channels=16, seed=0):
    """Return features of classes that overlap."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    vectors = generator.normal(size=(classes, channels))[labels] + 2 * generator.normal(size=(images, channels))
    return FeatureSet(vectors.astype(np.float32), labels, np.arange(images), {})


def split(features, queries):
    """Return normalized features and labels of the queries, and of the database."""
    vectors, labels = F.normalize(torch.from_numpy(features.vectors)), torch.from_numpy(features.labels)
    database = np.setdiff1d(np.arange(len(vectors)), queries)
    return vectors[queries], labels[queries], vectors[database], labels[database]


def test_precision_and_recall_are_those_of_torchmetrics():
    features, queries = random_features(300, 7), np.arange(0, 300, 6)
    query_vectors, query_labels, database, database_labels = split(features, queries)
    curve = search(features, queries, CPU)
    for k in (1, 2, 5, 20, 100, len(database)):
        for values, metric in ((curve.precision, retrieval_precision), (curve.recall, retrieval_recall)):
            expected = [  # cosines plus 2, as torchmetrics takes scores below 0 for irrelevant
                metric(database @ vector + 2, database_labels == label, top_k=k).item()
                for vector, label in zip(query_vectors, query_labels, strict=True)
            ]
            assert values[k - 1] == pytest.approx(np.mean(expected), abs=1e-6)


def test_neighbors_are_those_of_scikit_learn():
    features, queries = random_features(400, 5, seed=1), np.arange(40)
    query_vectors, query_labels, database, database_labels = split(features, queries)
    neighbors = NearestNeighbors(n_neighbors=50, metric="cosine", algorithm="brute").fit(database.numpy())
    order = neighbors.kneighbors(query_vectors.numpy(), return_distance=False)
    hits = (database_labels.numpy()[order] == query_labels.numpy()[:, None]).mean(0)
    expected = hits.cumsum() / np.arange(1, 51)
    assert search(features, queries, CPU).precision[:50] == pytest.approx(expected, abs=1e-9)


def test_size_of_chunks_does_not_matter(monkeypatch):
    features, queries = random_features(300, 40), np.arange(70)
    in_one_chunk = search(features, queries, CPU)
    monkeypatch.setattr("trainer.evaluate.neighbors.QUERIES_PER_CHUNK", 9)
    in_chunks = search(features, queries, CPU)
    assert in_chunks.precision == pytest.approx(in_one_chunk.precision)
    assert in_chunks.recall == pytest.approx(in_one_chunk.recall)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and TEST_GPU=1")
def test_gpu_gives_the_cpus_precision():
    features, queries = random_features(3000, 40), np.arange(700)
    on_gpu, on_cpu = search(features, queries, torch.device("cuda")), search(features, queries, CPU)
    assert on_gpu.precision == pytest.approx(on_cpu.precision, abs=1e-3)


def test_ties_count_against_the_model():
    vector = F.normalize(torch.ones(1, 4))
    curve = precision_recall(vector, torch.tensor([0]), vector.expand(4, 4), torch.tensor([0, 1, 1, 0]))
    assert curve.precision.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert curve.recall.tolist() == [0, 0, 0.5, 1]


def test_queries_without_a_relevant_image_are_excluded_and_counted():
    vectors = torch.eye(4)
    curve = precision_recall(vectors[:2], torch.tensor([0, 9]), vectors[:3], torch.tensor([0, 1, 1]))
    assert (curve.queries, curve.without_relevant) == (1, 1)
    assert curve.precision[0] == curve.recall[0] == 1
    with pytest.raises(UserError, match="no query has an image of its class"):
        precision_recall(vectors[:1], torch.tensor([9]), vectors, torch.tensor([0, 1, 2, 3]))


def test_seed_determines_the_queries():
    queries = draw_queries(50, np.arange(50), 10, seed=3)
    assert len(queries) == len(set(queries.tolist())) == 10
    assert queries.tolist() == draw_queries(50, np.arange(50), 10, seed=3).tolist()
    assert set(queries.tolist()) != set(draw_queries(50, np.arange(50), 10, seed=4).tolist())


def test_unreadable_queries_are_replaced_and_the_others_stay():
    queries = set(draw_queries(50, np.arange(50), 10, seed=3).tolist())
    unreadable = sorted(queries)[:2]
    readable = np.delete(np.arange(50), unreadable)
    replaced = draw_queries(50, readable, 10, seed=3).tolist()
    assert len(set(replaced)) == 10
    assert set(replaced) & queries == queries - set(unreadable)
    assert set(replaced) <= set(readable.tolist())


def test_curves_are_sampled_up_to_the_whole_database():
    assert choose_ks(1) == [1]
    assert choose_ks(50) == [1, 2, 5, 10, 20, 50]
    assert choose_ks(234) == [1, 2, 5, 10, 20, 50, 100, 200, 234]
    sampled = curve_to_json(search(random_features(60, 3), np.arange(20), CPU))
    assert sampled["k"] == [1, 2, 5, 10, 20, 40]
    assert sampled["recall"][-1] == pytest.approx(1)


def test_average_of_curves_is_that_of_their_values():
    curves = [search(random_features(60, 3, seed=seed), np.arange(20), CPU) for seed in range(3)]
    expected = np.mean([curve.precision for curve in curves], axis=0)
    assert average_curves(curves).precision == pytest.approx(expected)
