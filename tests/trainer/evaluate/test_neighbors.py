import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from torchmetrics.functional.retrieval import retrieval_precision, retrieval_recall

from common.errors import UserError
from trainer.evaluate.features import FeatureSet
from trainer.evaluate.neighbors import (
    average_curves,
    choose_ks,
    count_correct,
    curve_to_json,
    draw_queries,
    precision_recall,
    search,
    vote,
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


# --- votes of nearest neighbors


@pytest.mark.parametrize("neighbors", [1, 5, 20, 60])
def test_votes_are_those_of_scikit_learn(neighbors: int) -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(6, 16, generator=generator)
    labels, bank_labels = (torch.randint(0, 6, (size,), generator=generator) for size in (2500, 60))
    queries = centers[labels] + 1.5 * torch.randn(2500, 16, generator=generator)
    bank = centers[bank_labels] + 1.5 * torch.randn(60, 16, generator=generator)
    reference = KNeighborsClassifier(neighbors, metric="cosine", weights=lambda d: np.exp(-d / 0.07), algorithm="brute")
    reference.fit(bank.numpy(), bank_labels.numpy())
    expected = (reference.predict(queries.numpy()) == labels.numpy()).sum()
    assert count_correct(queries, labels, bank, bank_labels, 6, [neighbors]) == {
        neighbors: pytest.approx(expected, abs=2)
    }


def test_more_neighbors_than_images_are_all_of_them() -> None:
    bank, labels = F.normalize(torch.randn(7, 4)), torch.tensor([0, 0, 0, 0, 0, 0, 1])
    found = count_correct(bank, labels, bank, labels, 2, (7, 200))
    assert found[7] == found[200]


def test_votes_do_not_depend_on_the_size_of_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(23, 8, generator=generator), F.normalize(torch.randn(30, 8, generator=generator))
    arguments = (queries, bank, torch.arange(30) % 4, 4, (3, 20))
    expected = vote(*arguments)
    monkeypatch.setattr("trainer.evaluate.neighbors.MAX_SIMILARITIES", 4 * 30)
    found = vote(*arguments)
    assert found.keys() == {3, 20}
    for k, votes in found.items():
        torch.testing.assert_close(votes, expected[k])


def test_votes_of_k_neighbors_are_those_of_a_search_for_k_only() -> None:
    generator = torch.Generator().manual_seed(1)
    queries, bank = torch.randn(5, 8, generator=generator), F.normalize(torch.randn(30, 8, generator=generator))
    labels = torch.arange(30) % 4
    torch.testing.assert_close(vote(queries, bank, labels, 4, (3, 20))[3], vote(queries, bank, labels, 4, [3])[3])
