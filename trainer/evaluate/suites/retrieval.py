"""Suite `retrieval`: do an image's nearest neighbors have its class (paper 4.5)?

Queries are drawn from a set; its other images are the database, ranked by the cosine between features. In corrupted
sets queries and database are corrupted alike, which the paper leaves open; the queries are the same images at every
severity.
"""

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from common import page
from common.errors import UserError
from common.page import Html
from common.storage import open_storage
from trainer.evaluate import plots
from trainer.evaluate.config import CIFAR_QUERIES, IMAGENET_QUERIES
from trainer.evaluate.features import FeatureSet
from trainer.evaluate.images.image_sets import ImageSet
from trainer.evaluate.models import EvaluatedModel, to_file_name
from trainer.evaluate.neighbors import Curve, average_curves, curve_to_json, draw_queries, search
from trainer.evaluate.suite import Context, Findings, Headline, Row, Suite, format_percent

CLEAN, CORRUPTIONS = "clean", "corruptions"  # keys of results.json
SUBSET_NOTE = "ImageNet-C is not searched: --images selects only some of its images, which would be another database."
PRECISION_KS, RECALL_KS = (1, 10, 100), (10, 100)  # columns of the report's table

Results = Mapping[str, Mapping[str, Any]]  # results of one collection, by model


class Collection(NamedTuple):
    """A data set to search: its clean images, if given, and the corrupted ones by corruption and severity."""

    name: str
    clean: ImageSet | None
    corrupted: Mapping[tuple[str, int], ImageSet]
    queries: int

    def sets(self) -> list[ImageSet]:
        """Return the clean set and all corrupted ones."""
        return [*filter(None, [self.clean]), *self.corrupted.values()]


def image_sets(context: Context) -> list[ImageSet]:
    """Return all sets to search. Raises UserError if one does not have more images than queries."""
    collections = _collections(context)
    for collection in collections:
        for images in collection.sets():
            _check_size(collection, images)
    return [images for collection in collections for images in collection.sets()]


def run(context: Context) -> Findings:
    """Measure precision and recall of each model at many k: clean, by corruption and severity, and means by severity.

    Features, labels and queries (row numbers of the features) of the clean sets are saved in OUTPUT/retrieval.
    """
    collections = _collections(context)
    results: dict[str, dict[str, Any]] = {model.name: {} for model in context.models}
    rows: list[Row] = []
    for model in context.models:
        for collection in collections:
            results[model.name][collection.name] = _search_collection(context, model, collection, rows)
    notes = [SUBSET_NOTE] if context.data.corrupted and context.settings.images is not None else []
    return Findings(results, rows, notes)


def _search_collection(
    context: Context, model: EvaluatedModel, collection: Collection, rows: list[Row]
) -> dict[str, Any]:
    """Search all sets of a collection, append to the rows of the table, and return the entry of results.json."""
    results: dict[str, Any] = {}
    curves: dict[str, dict[int, Curve]] = {}
    drawn = _draw_queries(context, model, collection)
    if collection.clean is not None:
        features, queries = _features_and_queries(context, model, collection.clean, drawn)
        _save_features(context, model, collection, features, queries)
        curve = search(features, queries, context.device)
        results[CLEAN] = curve_to_json(curve)
        rows += _rows(model, collection, CLEAN, 0, curve)
    for (corruption, severity), images in collection.corrupted.items():
        curve = search(*_features_and_queries(context, model, images, drawn), context.device)
        curves.setdefault(corruption, {})[severity] = curve
        rows += _rows(model, collection, corruption, severity, curve)
    for severity in sorted({severity for by_severity in curves.values() for severity in by_severity}):
        same_severity = [by_severity[severity] for by_severity in curves.values()]
        results[str(severity)] = curve_to_json(average_curves(same_severity))
    if curves:
        results[CORRUPTIONS] = {
            name: {str(severity): curve_to_json(curve) for severity, curve in by_severity.items()}
            for name, by_severity in curves.items()
        }
    return results


def _draw_queries(context: Context, model: EvaluatedModel, collection: Collection) -> dict[int, np.ndarray]:
    """Return the indices of the images that are queries, by the size of the sets.

    Sets of the same size have the same queries, images that can be read in all of them. Raises UserError if there are
    too few.
    """
    readable: dict[int, np.ndarray] = {}
    for images in collection.sets():
        size, indices = len(images.names), context.store.readable(model, images)
        readable[size] = np.intersect1d(readable.get(size, indices), indices)
    for size, indices in readable.items():
        if len(indices) <= collection.queries:
            raise UserError(
                f"retrieval on {collection.name}: {len(indices):,} of {size:,} images can be read in every set, "
                f"expected more than the {collection.queries:,} queries; ask for fewer with --queries"
            )
    seed = context.settings.seed
    return {size: draw_queries(size, indices, collection.queries, seed) for size, indices in readable.items()}


def _features_and_queries(
    context: Context, model: EvaluatedModel, images: ImageSet, drawn: Mapping[int, np.ndarray]
) -> tuple[FeatureSet, np.ndarray]:
    """Return a set's features, and the row numbers of the queries in them."""
    features = context.store.get(model, images)
    return features, np.flatnonzero(np.isin(features.indices, drawn[len(images.names)]))


def _collections(context: Context) -> list[Collection]:
    data, queries = context.data, context.settings.queries
    corrupted = data.corrupted if context.settings.images is None else {}
    collections = [
        Collection("imagenet", data.val, corrupted, queries or IMAGENET_QUERIES),
        Collection("cifar10", data.cifar, data.cifar_c, queries or CIFAR_QUERIES),
    ]
    return [collection for collection in collections if collection.sets()]


def _check_size(collection: Collection, images: ImageSet) -> None:
    if len(images.names) <= collection.queries:
        raise UserError(
            f"retrieval on {collection.name}: {images.name} has {len(images.names):,} images, expected more than "
            f"the {collection.queries:,} queries; ask for fewer with --queries"
        )


def _save_features(
    context: Context, model: EvaluatedModel, collection: Collection, features: FeatureSet, queries: np.ndarray
) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, features=features.vectors, labels=features.labels, queries=queries)
    name = f"retrieval/{to_file_name(f'{model.name} {collection.name}')}.npz"
    open_storage(context.settings.output).replace(name, buffer.getvalue())


def _rows(model: EvaluatedModel, collection: Collection, corruption: str, severity: int, curve: Curve) -> list[Row]:
    sampled = curve_to_json(curve)
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
        for k, precision, recall in zip(sampled["k"], sampled["precision"], sampled["recall"], strict=True)
    ]


def section(findings: Findings) -> Html:
    """Show precision and recall of clean and corrupted images (as the paper's Fig. Supp.1)."""
    parts: list[Html] = []
    collections = list(next(iter(findings.results.values())))
    for collection in collections:
        results = {model: result[collection] for model, result in findings.results.items()}
        first = next(iter(results.values()))
        title = f"{collection}: mean over corruptions" if CORRUPTIONS in first else collection
        charts = [_curves_chart(title, results)]
        for name in first.get(CORRUPTIONS, {}):
            one_corruption = {
                model: {key: curve for key, curve in result.items() if key == CLEAN} | result[CORRUPTIONS][name]
                for model, result in results.items()
            }
            charts.append(_curves_chart(f"{collection}: {name.replace('_', ' ')}", one_corruption))
        parts += [page.element("h3", collection), _precision_table(results), plots.arrange_charts(charts)]
    return page.section(
        "Retrieval",
        page.paragraph(
            "Do an image's nearest neighbors, by the cosine between features, have its class? Means over queries; each "
            "point of a curve is a number k of results. The palest lines are the strongest corruption. Queries and "
            "database are corrupted alike."
        ),
        page.notes(findings.notes),
        *parts,
    )


def _precision_table(results: Results) -> Html:
    """Show precision and recall at a few k."""
    rows = []
    for model, by_condition in results.items():
        for condition, curve in by_condition.items():
            if condition == CORRUPTIONS:
                continue
            precision, recall = (dict(zip(curve["k"], curve[name], strict=True)) for name in ("precision", "recall"))
            rows.append(
                (
                    model,
                    condition if condition == CLEAN else f"severity {condition}",
                    curve["queries"],
                    *(format_percent(precision[k]) if k in precision else "" for k in PRECISION_KS),
                    *(format_percent(recall[k]) if k in recall else "" for k in RECALL_KS),
                )
            )
    columns = ["model", "images", "queries", "precision at 1 (%)", "at 10", "at 100", "recall at 10 (%)", "at 100"]
    return page.table(columns, rows)


def _curves_chart(title: str, results: Results) -> Html:
    conditions = [name for name in next(iter(results.values())) if name != CORRUPTIONS]
    return plots.line_chart(
        title,
        ", ".join(name if name == CLEAN else f"severity {name}" for name in conditions),
        {
            model: [
                (curves[name]["recall"], curves[name]["precision"], 1 - 0.8 * number / max(len(conditions), 2))
                for number, name in enumerate(conditions)
            ]
            for model, curves in results.items()
        },
        "recall",
        "precision",
    )


SUITE = Suite(
    position=3,
    inputs=("val", "imagenet_c", "cifar", "cifar_c"),
    image_sets=image_sets,
    run=run,
    section=section,
    headlines=(
        Headline("imagenet_precision_at_1", "retrieval, precision at 1 (%)", ("imagenet", CLEAN, "precision", 0)),
        Headline(
            "cifar10_precision_at_1", "CIFAR-10 retrieval, precision at 1 (%)", ("cifar10", CLEAN, "precision", 0)
        ),
    ),
)
