"""An evaluation: open data and models, let the suites check them, extract features, run the suites, write results."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from common.launch import default_device
from common.storage import open_storage
from trainer.evaluate.config import EvaluateSettings
from trainer.evaluate.data import EvaluationData
from trainer.evaluate.features import Extract, FeatureStore, Piece, extract_here
from trainer.evaluate.glance import summarize_models
from trainer.evaluate.images.image_sets import ImageSet
from trainer.evaluate.models import EvaluatedModel, open_models
from trainer.evaluate.probes import Probes
from trainer.evaluate.report import report_page
from trainer.evaluate.suite import Context, Findings, Row
from trainer.evaluate.suites import load_headlines

RESULTS, PAGE = "results.json", "index.html"


def run_evaluation(settings: EvaluateSettings) -> str:
    """Run the suites that the settings select, and write results.json, tables and the report.

    Returns the location of the report. Raises UserError, as far as possible before anything is measured.
    """
    storage = open_storage(settings.output)
    storage.check_writable()
    context = _open_context(settings)
    suites = settings.suites()
    needed = [images for suite in suites.values() for images in suite.image_sets(context)]
    context.store.prepare(context.models, needed)
    findings = {name: suite.run(context) for name, suite in suites.items()}

    unreadable = _merge(context.store.unreadable, *(found.unreadable for found in findings.values()))
    excluded = _merge(*(found.excluded for found in findings.values()))
    results = {model.name: _model_results(model, context, findings) for model in context.models}
    headlines = load_headlines()
    headline_rows = summarize_models(results, headlines)
    for name, rows in {"glance": headline_rows, **{name: found.rows for name, found in findings.items()}}.items():
        storage.replace(f"{name}.csv", _csv_table(rows))
    content = {name: {**result, "unreadable": unreadable, "left_out": excluded} for name, result in results.items()}
    storage.replace(RESULTS, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    page = report_page(context, suites, findings, headlines, headline_rows, unreadable)
    storage.replace(PAGE, page.encode("utf-8", "surrogateescape"))
    storage.sweep()
    return f"{settings.output.rstrip('/')}/{PAGE}"


def _open_context(settings: EvaluateSettings) -> Context:
    """Open what the suites are given, with the models on their device."""
    device = default_device()
    data = EvaluationData(settings)
    models = open_models(settings.checkpoints, settings.backbone)
    folder = settings.features or f"{settings.output}/features"
    store = FeatureStore(folder, _make_extractor(settings, device), settings.image_size)
    probes = Probes(store, lambda: data.train, settings.probe_epochs, settings.seed, device)
    for model in models:
        model.network.to(device)
    return Context(settings, data, models, store, probes, device)


def _make_extractor(settings: EvaluateSettings, device: torch.device) -> Extract:
    """Return the function that extracts features: in this process, or in several with Ray."""

    def extract_in_this_process(
        models: Sequence[EvaluatedModel], sets: Sequence[ImageSet], size: int
    ) -> Iterator[tuple[int, Piece]]:
        networks = [model.network for model in models]
        for number, images in enumerate(sets):
            for piece in extract_here(networks, images, size, device, settings.batch_size, settings.readers):
                yield number, piece

    def extract_with_ray(
        models: Sequence[EvaluatedModel], sets: Sequence[ImageSet], size: int
    ) -> Iterator[tuple[int, Piece]]:
        from trainer.evaluate.distribute import extract_on_ray

        return extract_on_ray(models, sets, size, settings.batch_size, settings.readers, settings.workers)

    return extract_in_this_process if settings.workers == 1 else extract_with_ray


def _model_results(model: EvaluatedModel, context: Context, findings: Mapping[str, Findings]) -> dict[str, Any]:
    """Return the entry of results.json for a model."""
    checkpoint = {
        "location": model.location,
        "sha256": model.sha256,
        "image_size": context.store.size(model),
        "seed": context.settings.seed,
        "trained": dict(model.about),
    }
    return {
        **{name: found.results[model.name] for name, found in findings.items() if model.name in found.results},
        **_merge(*(found.further.get(model.name, {}) for found in findings.values())),
        "checkpoint": checkpoint,
        "notes": {name: found.notes for name, found in findings.items()},
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
