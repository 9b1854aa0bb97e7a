"""Suite `retrieval`: are an image's nearest neighbours of its class (paper 4.5)?

Queries are drawn from a set; its other images are the database, sorted by the cosine between features. For corrupted
sets queries and database are both corrupted, alike, as the paper puts ImageNet-C in ImageNet's place; the queries are
the same images at every severity.
"""

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.storage import open_storage
from trainer.evaluate.config import CIFAR_QUERIES, IMAGENET_QUERIES
from trainer.evaluate.features import FeatureSet
from trainer.evaluate.image_sets import ImageSet
from trainer.evaluate.models import EvaluatedModel, file_name
from trainer.evaluate.suites.base import Context, Findings, Row

CHUNK = 512  # queries at once
CLEAN = "clean"
FEWER = "ImageNet-C is left out: only some of its images were asked for (--images), which is another database."


class Curve(NamedTuple):
    """Mean precision and recall among the first 1, 2, ... results, float64 [database] each.

    `queries` have something to find; `without` others have no image of their class in the database and are left out.
    """

    precision: np.ndarray
    recall: np.ndarray
    queries: int
    without: int


class Collection(NamedTuple):
    """A data set's clean images, if they are given, and the corrupted ones by corruption and severity."""

    name: str
    clean: ImageSet | None
    corrupted: Mapping[tuple[str, int], ImageSet]
    queries: int

    def sets(self) -> list[ImageSet]:
        """All of them."""
        return [*filter(None, [self.clean]), *self.corrupted.values()]


def sets(context: Context) -> list[ImageSet]:
    """The images whose features are needed. Raises UserError where a set has no more images than queries."""
    collections = _collections(context)
    for collection in collections:
        for pictures in collection.sets():
            _check_enough(collection, pictures)
    return [pictures for collection in collections for pictures in collection.sets()]


def run(context: Context) -> Findings:
    """Precision and recall of each model at many k: clean, by corruption and severity, and by severity alone (means).

    Features, labels and queries (rows of the features) of the clean sets go into OUTPUT/retrieval.
    """
    collections = _collections(context)
    results: dict[str, dict[str, Any]] = {model.name: {} for model in context.models}
    rows: list[Row] = []
    for model in context.models:
        for collection in collections:
            results[model.name][collection.name] = _measured(context, model, collection, rows)
    notes = [FEWER] if context.data.corrupted and context.settings.images is not None else []
    return Findings(results, rows, notes)


def _measured(context: Context, model: EvaluatedModel, collection: Collection, rows: list[Row]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    curves: dict[str, dict[int, Curve]] = {}
    if collection.clean is not None:
        features, queries = _drawn(context, model, collection, collection.clean)
        _keep(context, model, collection, features, queries)
        curve = search(features, queries, context.device)
        found[CLEAN] = curve_to_json(curve)
        rows += _rows(model, collection, CLEAN, 0, curve)
    for (corruption, severity), pictures in collection.corrupted.items():
        curve = search(*_drawn(context, model, collection, pictures), context.device)
        curves.setdefault(corruption, {})[severity] = curve
        rows += _rows(model, collection, corruption, severity, curve)
    for severity in sorted({severity for by in curves.values() for severity in by}):
        found[str(severity)] = curve_to_json(average_curves([by[severity] for by in curves.values()]))
    if curves:
        found["corruptions"] = {
            name: {str(severity): curve_to_json(curve) for severity, curve in by.items()} for name, by in curves.items()
        }
    return found


def _drawn(
    context: Context, model: EvaluatedModel, collection: Collection, pictures: ImageSet
) -> tuple[FeatureSet, np.ndarray]:
    """A set's features, and which rows of them are searched for."""
    features = context.store.get(model, pictures)
    return features, draw_queries(features, len(pictures.names), collection.queries, context.settings.seed)


def search(found: FeatureSet, queries: np.ndarray, device: torch.device) -> Curve:
    """Search for the rows `queries` among all other rows: exact, in chunks. Images of a query's class are relevant."""
    database = np.setdiff1d(np.arange(len(found.rows)), queries)
    rows = F.normalize(torch.from_numpy(found.rows).to(device))
    labels = torch.from_numpy(found.labels).to(device)
    at, others = torch.from_numpy(queries).to(device), torch.from_numpy(database).to(device)
    return precision_recall(rows[at], labels[at], rows[others], labels[others])


@torch.inference_mode()
def precision_recall(queries: Tensor, query_labels: Tensor, database: Tensor, database_labels: Tensor) -> Curve:
    """Mean precision and recall at every k. Rows of length 1: [Q, C], [N, C]; labels [Q], [N].

    Nothing is sorted but what is relevant: the place of a query's j-th best relevant image is j plus the number of
    irrelevant ones that score as high or higher, so that ties count against it.
    """
    order = query_labels.argsort(stable=True)  # queries of a class lie together, and share what is relevant
    hits = torch.zeros(len(database), dtype=torch.float64, device=queries.device)
    recalled = torch.zeros_like(hits)
    searched = 0
    for chunk in order.split(CHUNK):
        cosines = queries[chunk] @ database.T
        for label in query_labels[chunk].unique():
            relevant = database_labels == label
            number = int(relevant.sum())
            if not number:
                continue
            mine = cosines[query_labels[chunk] == label]
            places = _places(mine[:, relevant], mine[:, ~relevant]).flatten()
            counts = torch.bincount(places, minlength=len(hits)).double()
            hits += counts
            recalled += counts / number
            searched += len(mine)
    if not searched:
        raise UserError("retrieval: no query has an image of its class in the database; name more images per class")
    found, recall = (total.cumsum(0).cpu().numpy() / searched for total in (hits, recalled))
    return Curve(found / np.arange(1, len(found) + 1), recall, searched, len(queries) - searched)


def _places(relevant: Tensor, irrelevant: Tensor) -> Tensor:
    """The places, from 0, of relevant scores [q, r] among themselves and irrelevant ones [q, n]: [q, r]."""
    ascending = relevant.sort(1).values.contiguous()
    reached = torch.searchsorted(ascending, irrelevant.contiguous(), right=True)  # how many are not above this one
    counts = torch.zeros(len(relevant), relevant.shape[1] + 1, dtype=torch.int64, device=relevant.device)
    counts.scatter_add_(1, reached, torch.ones_like(reached))
    above = irrelevant.shape[1] - counts.cumsum(1)[:, :-1]  # irrelevant ones as high or higher
    return above + torch.arange(relevant.shape[1] - 1, -1, -1, device=relevant.device)


def draw_queries(found: FeatureSet, images: int, queries: int, seed: int) -> np.ndarray:
    """Rows of the features that are searched for: so many of a set's images, drawn by the seed, but unreadable ones."""
    chosen = np.random.default_rng([seed, 1]).choice(images, queries, replace=False)
    return np.flatnonzero(np.isin(found.indices, chosen))


def curve_to_json(curve: Curve) -> dict[str, Any]:
    """A curve at many k, for results.json."""
    k = choose_ks(len(curve.precision))
    at = np.array(k) - 1
    return {
        "k": k,
        "precision": curve.precision[at].tolist(),
        "recall": curve.recall[at].tolist(),
        "queries": curve.queries,
        "queries_without_relevant": curve.without,
    }


def choose_ks(most: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... and the whole database."""
    series = [step * 10**power for power in range(len(str(most))) for step in (1, 2, 5)]
    return [k for k in series if k < most] + [most]


def average_curves(curves: list[Curve]) -> Curve:
    """The mean of curves over databases of one size (the smallest, where unreadable images make a difference)."""
    size = min(len(curve.precision) for curve in curves)
    precision, recall = (
        np.mean([getattr(curve, name)[:size] for curve in curves], axis=0) for name in ("precision", "recall")
    )
    return Curve(precision, recall, min(c.queries for c in curves), max(c.without for c in curves))


def _collections(context: Context) -> list[Collection]:
    data, queries = context.data, context.settings.queries
    corrupted = data.corrupted if context.settings.images is None else {}
    found = [
        Collection("imagenet", data.val, corrupted, queries or IMAGENET_QUERIES),
        Collection("cifar10", data.cifar, data.cifar_c, queries or CIFAR_QUERIES),
    ]
    return [collection for collection in found if collection.sets()]


def _check_enough(collection: Collection, pictures: ImageSet) -> None:
    if len(pictures.names) <= collection.queries:
        raise UserError(
            f"retrieval on {collection.name}: {pictures.name} has {len(pictures.names):,} images, expected more than "
            f"the {collection.queries:,} queries; ask for fewer with --queries"
        )


def _keep(
    context: Context, model: EvaluatedModel, collection: Collection, found: FeatureSet, queries: np.ndarray
) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, features=found.rows, labels=found.labels, queries=queries)
    name = f"retrieval/{file_name(f'{model.name} {collection.name}')}.npz"
    open_storage(context.settings.output).replace(name, buffer.getvalue())


def _rows(model: EvaluatedModel, collection: Collection, corruption: str, severity: int, curve: Curve) -> list[Row]:
    told = curve_to_json(curve)
    return [
        {
            "model": model.name,
            "data": collection.name,
            "corruption": corruption,
            "severity": severity,
            "k": k,
            "precision": precision,
            "recall": recall,
        }
        for k, precision, recall in zip(told["k"], told["precision"], told["recall"], strict=True)
    ]
