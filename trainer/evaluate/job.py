"""The course of an evaluation: open data and models, check them, extract features, run the suites, write results."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import torch

from common.launch import default_device
from common.storage import Storage, open_storage
from common.storage.output_folder import check_output_folder
from trainer.evaluate.config import EvaluateSettings
from trainer.evaluate.data import EvaluationData
from trainer.evaluate.extraction import FeatureBatch, extract_features
from trainer.evaluate.features import Extractor, FeatureStore
from trainer.evaluate.glance import summarize_models
from trainer.evaluate.images.image_sets import ImageSet
from trainer.evaluate.models import EvaluatedModel, open_models
from trainer.evaluate.probes import Probes
from trainer.evaluate.report import report_page
from trainer.evaluate.suite import Context, Findings, Row
from trainer.evaluate.suites import load_headlines

RESULTS, PAGE = "results.json", "index.html"
GLANCE = "glance"  # name of the first table that is written


def run_evaluation(settings: EvaluateSettings) -> str:
    """Run the suites that the settings select, and write results.json, tables and the report.

    Returns the location of the report. Raises UserError, as far as possible before anything is measured.
    """
    storage = open_storage(settings.output)
    _check_output(storage, settings)
    storage.check_writable()
    context = _open_context(settings)
    suites = settings.suites()
    needed = [images for suite in suites.values() for images in suite.image_sets(context)]
    context.store.prepare(context.models, needed)
    findings = {name: suite.run(context) for name, suite in suites.items()}

    unreadable = _merge(context.store.unreadable, *(suite_findings.unreadable for suite_findings in findings.values()))
    excluded = _merge(*(suite_findings.excluded for suite_findings in findings.values()))
    results = {model.name: _model_results(model, context, findings) for model in context.models}
    headlines = load_headlines()
    headline_rows = summarize_models(results, headlines)
    tables = {GLANCE: headline_rows, **{name: suite_findings.rows for name, suite_findings in findings.items()}}
    for name, rows in tables.items():
        storage.replace(f"{name}.csv", _csv_table(rows))
    content = {name: {**result, "unreadable": unreadable, "left_out": excluded} for name, result in results.items()}
    storage.replace(RESULTS, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    page = report_page(context, suites, findings, headlines, headline_rows, unreadable)
    storage.replace(PAGE, page.encode("utf-8", "surrogateescape"))
    storage.sweep()
    return f"{settings.output.rstrip('/')}/{PAGE}"


def _check_output(storage: Storage, settings: EvaluateSettings) -> None:
    """Raise UserError if the output holds other files than a report, which may be interrupted."""
    own = ["features", "retrieval"]  # written before the tables
    output, features = PurePosixPath(settings.output), PurePosixPath(settings.features or "features")
    if features.is_relative_to(output):
        own.append(features.relative_to(output).parts[0] if features != output else "*.npz")
    check_output_folder(storage, "a report", (f"{GLANCE}.csv",), own)


def _open_context(settings: EvaluateSettings) -> Context:
    """Open data and models, and move the models to the device."""
    device = default_device()
    data = EvaluationData(settings)
    models = open_models(settings.checkpoints, settings.backbone)
    folder = settings.features or f"{settings.output}/features"
    store = FeatureStore(folder, _make_extractor(settings, device), settings.image_size)
    probes = Probes(store, lambda: data.train, settings.probe_epochs, settings.seed, device, settings.probe_kind)
    for model in models:
        model.network.to(device)
    return Context(settings, data, models, store, probes, device)


def _make_extractor(settings: EvaluateSettings, device: torch.device) -> Extractor:
    """Return the function that extracts features: in this process, or in several with Ray."""
    if settings.workers > 1:
        from trainer.evaluate.distribute import extract_with_ray  # imports Ray

        return partial(
            extract_with_ray,
            batch_size=settings.batch_size,
            readers=settings.readers,
            workers=settings.workers,
        )

    def extract_in_this_process(
        models: Sequence[EvaluatedModel], sets: Sequence[ImageSet], size: int
    ) -> Iterator[tuple[int, FeatureBatch]]:
        networks = [model.network for model in models]
        for number, images in enumerate(sets):
            for batch in extract_features(networks, images, size, device, settings.batch_size, settings.readers):
                yield number, batch

    return extract_in_this_process


def _model_results(model: EvaluatedModel, context: Context, findings: Mapping[str, Findings]) -> dict[str, Any]:
    """Return the entry of results.json for a model."""
    checkpoint = {
        "location": model.location,
        "sha256": model.sha256,
        "image_size": context.store.image_size(model),
        "seed": context.settings.seed,
        "trained": dict(model.training),
    }
    return {
        **{
            name: suite_findings.results[model.name]
            for name, suite_findings in findings.items()
            if model.name in suite_findings.results
        },
        **_merge(*(suite_findings.further.get(model.name, {}) for suite_findings in findings.values())),
        "checkpoint": checkpoint,
        "notes": {name: suite_findings.notes for name, suite_findings in findings.items()},
    }


def _merge(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}


def _csv_table(rows: Sequence[Row]) -> bytes:
    """Format rows as CSV; NaN becomes an empty cell."""
    if not rows:
        return b""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: "" if value != value else value for name, value in row.items()} for row in rows])
    return text.getvalue().encode("utf-8", "surrogateescape")
