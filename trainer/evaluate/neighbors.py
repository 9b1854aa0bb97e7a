"""Exact nearest-neighbor search by cosine similarity: precision and recall at every k, and votes for classes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from trainer.evaluate.features import FeatureSet

QUERIES_PER_CHUNK = 512
NEIGHBORS = (20, 200)  # that vote
TEMPERATURE = 0.07  # of votes, as in Wu et al. 2018 and DINO
MAX_SIMILARITIES = 2**27  # computed at once for votes


class Curve(NamedTuple):
    """Precision and recall among the first 1, 2, ... results, averaged over queries.

    Attributes:
        precision: float64 [database].
        recall: float64 [database].
        queries: number of queries with at least one relevant image in the database.
        without_relevant: number of queries without one; they are excluded from the means.
    """

    precision: np.ndarray
    recall: np.ndarray
    queries: int
    without_relevant: int


def draw_queries(images: int, readable: np.ndarray, queries: int, seed: int) -> np.ndarray:
    """Draw `queries` of a set's `images` and return their indices, in any order; all are among the `readable` ones."""
    generator = np.random.default_rng([seed, 1])
    chosen = generator.choice(images, queries, replace=False)
    substitutes = generator.permutation(np.setdiff1d(np.arange(images), chosen))
    candidates = np.concatenate([chosen, substitutes])
    return candidates[np.isin(candidates, readable)][:queries]


def search(features: FeatureSet, queries: np.ndarray, device: torch.device) -> Curve:
    """Search for the features at row numbers `queries` among all others. Images of a query's class are relevant."""
    database = np.setdiff1d(np.arange(len(features.vectors)), queries)
    vectors = F.normalize(torch.from_numpy(features.vectors).to(device))
    labels = torch.from_numpy(features.labels).to(device)
    query_rows, database_rows = torch.from_numpy(queries).to(device), torch.from_numpy(database).to(device)
    return precision_recall(vectors[query_rows], labels[query_rows], vectors[database_rows], labels[database_rows])


@torch.inference_mode()
def precision_recall(queries: Tensor, query_labels: Tensor, database: Tensor, database_labels: Tensor) -> Curve:
    """Compute mean precision and recall at every k.

    Only relevant scores are sorted: the position of a query's j-th best relevant image is j plus the number of
    irrelevant images that score as high or higher, so that ties count against it.

    Args:
        queries: features of length 1, float [Q, C].
        query_labels: class indices, int64 [Q].
        database: features of length 1, float [N, C].
        database_labels: class indices, int64 [N].

    Raises UserError if no query has a relevant image.
    """
    order = query_labels.argsort(stable=True)  # queries of a class are neighbors: they share their relevant images
    hits = torch.zeros(len(database), dtype=torch.float64, device=queries.device)
    recalled = torch.zeros_like(hits)
    searched = 0
    for chunk in order.split(QUERIES_PER_CHUNK):
        cosines = queries[chunk] @ database.T
        for label in query_labels[chunk].unique():
            relevant = database_labels == label
            relevant_count = int(relevant.sum())
            if not relevant_count:
                continue
            scores = cosines[query_labels[chunk] == label]
            positions = _relevant_positions(scores[:, relevant], scores[:, ~relevant]).flatten()
            counts = torch.bincount(positions, minlength=len(hits)).double()
            hits += counts
            recalled += counts / relevant_count
            searched += len(scores)
    if not searched:
        raise UserError("retrieval: no query has an image of its class in the database; name more images per class")
    mean_hits, recall = (total.cumsum(0).cpu().numpy() / searched for total in (hits, recalled))
    precision = mean_hits / np.arange(1, len(mean_hits) + 1)
    return Curve(precision, recall, searched, len(queries) - searched)


def _relevant_positions(relevant: Tensor, irrelevant: Tensor) -> Tensor:
    """Return the positions, from 0, of relevant scores [q, r] in the ranking with irrelevant ones [q, n]: [q, r]."""
    ascending = relevant.sort(1).values.contiguous()
    reached = torch.searchsorted(ascending, irrelevant.contiguous(), right=True)  # relevant scores that are not higher
    counts = torch.zeros(len(relevant), relevant.shape[1] + 1, dtype=torch.int64, device=relevant.device)
    counts.scatter_add_(1, reached, torch.ones_like(reached))
    above = irrelevant.shape[1] - counts.cumsum(1)[:, :-1]  # irrelevant scores as high or higher
    return above + torch.arange(relevant.shape[1] - 1, -1, -1, device=relevant.device)


def average_curves(curves: list[Curve]) -> Curve:
    """Average curves. Databases that differ because of unreadable images are cut to the size of the smallest."""
    size = min(len(curve.precision) for curve in curves)
    precision, recall = (
        np.mean([getattr(curve, name)[:size] for curve in curves], axis=0) for name in ("precision", "recall")
    )
    return Curve(
        precision, recall, min(curve.queries for curve in curves), max(curve.without_relevant for curve in curves)
    )


def curve_to_json(curve: Curve) -> dict[str, Any]:
    """Sample a curve at the values of `choose_ks`, as results.json holds it."""
    k = choose_ks(len(curve.precision))
    indices = np.array(k) - 1
    return {
        "k": k,
        "precision": curve.precision[indices].tolist(),
        "recall": curve.recall[indices].tolist(),
        "queries": curve.queries,
        "queries_without_relevant": curve.without_relevant,
    }


def choose_ks(database: int) -> list[int]:
    """Return 1, 2, 5, 10, 20, 50, ... below the size of the database, and that size."""
    series = [step * 10**power for power in range(len(str(database))) for step in (1, 2, 5)]
    return [k for k in series if k < database] + [database]


def vote(
    queries: Tensor, bank: Tensor, bank_labels: Tensor, classes: int, neighbors: Sequence[int]
) -> dict[int, Tensor]:
    """Sum the votes of the k nearest images of a bank for each class: float32 [Q, classes] for each k.

    The nearest images have the highest cosine; a vote is exp(cosine / 0.07), up to a common factor. A k beyond the size
    of the bank counts all of it.

    Args:
        queries: features, float32 [Q, C].
        bank: features of length 1, float32 [N, C].
        bank_labels: class indices, int64 [N].
        classes: number of classes.
        neighbors: values of k.
    """
    votes = {k: torch.zeros(len(queries), classes, device=queries.device) for k in neighbors}
    queries_per_chunk = max(MAX_SIMILARITIES // len(bank), 1)
    for start in range(0, len(queries), queries_per_chunk):
        part = slice(start, start + queries_per_chunk)
        nearest = (F.normalize(queries[part]) @ bank.T).topk(min(max(neighbors), len(bank)))
        weights = ((nearest.values - 1) / TEMPERATURE).exp()
        for k in neighbors:
            votes[k][part].scatter_add_(1, bank_labels[nearest.indices[:, :k]], weights[:, :k])
    return votes


def count_correct(
    queries: Tensor, labels: Tensor, bank: Tensor, bank_labels: Tensor, classes: int, neighbors: Sequence[int]
) -> dict[int, int]:
    """Count queries whose class gets the most votes, for each k.

    Args:
        labels: class indices of the queries, int64 [Q].
        bank: features of any length, float32 [N, C].

    The others are those of `vote`.
    """
    votes = vote(queries, F.normalize(bank), bank_labels, classes, neighbors)
    return {k: int((scores.argmax(1) == labels).sum()) for k, scores in votes.items()}
