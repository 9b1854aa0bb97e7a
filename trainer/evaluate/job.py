"""An evaluation from its settings to its report: data and models opened, features extracted, suites run, all kept."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from common.errors import UserError
from common.extras import require_extra
from common.launch import default_device
from common.storage import open_storage
from trainer.evaluate.config import EvaluateSettings
from trainer.evaluate.data import open_data
from trainer.evaluate.features import FeatureStore, Piece, extract_here
from trainer.evaluate.glance import summarize_models
from trainer.evaluate.image_sets import ImageSet
from trainer.evaluate.models import EvaluatedModel, open_models
from trainer.evaluate.probes import Probes
from trainer.evaluate.report import report_page
from trainer.evaluate.suites import alignment, imagenet_c, linear, retrieval
from trainer.evaluate.suites.alignment import Alignment
from trainer.evaluate.suites.base import Context, Findings, Row

ON_FEATURES: dict[str, Any] = {"linear": linear, "imagenet-c": imagenet_c, "retrieval": retrieval}
RESULTS, PAGE = "results.json", "index.html"


def run_evaluation(settings: EvaluateSettings) -> str:
    """Measure as the settings say; returns where the page lies. Raises UserError, as far as possible at the start."""
    require_extra("eval", "an evaluation")
    storage = open_storage(settings.output)
    storage.check_writable()
    context = _opened(settings)
    if "alignment" in settings.suites():
        alignment.with_attention(context)
    found = _measured(context)
    looked = alignment.run(context) if "alignment" in settings.suites() else None
    if looked:
        found["alignment"] = looked.findings
    unreadable = context.store.unreadable | (looked.unreadable if looked else {})
    results = {model.name: _results(model, context, found, looked) for model in context.models}
    rows = summarize_models(results)
    for name, table in {"glance": rows, **{name: findings.rows for name, findings in found.items()}}.items():
        storage.replace(f"{name}.csv", _table(table))
    everything = {
        name: {**result, "unreadable": unreadable, "left_out": context.data.left_out}
        for name, result in results.items()
    }
    storage.replace(RESULTS, (json.dumps(everything, indent=1, allow_nan=False) + "\n").encode())
    storage.replace(PAGE, report_page(context, rows, found, looked, unreadable).encode("utf-8", "surrogateescape"))
    storage.sweep()
    return f"{settings.output.rstrip('/')}/{PAGE}"


def _opened(settings: EvaluateSettings) -> Context:
    """Everything that the suites are given, with the models on their device."""
    device = default_device()
    data = open_data(settings)
    models = open_models(settings.checkpoints, settings.backbone)
    if same := [model.name for model in models if model.name in data.compared]:
        raise UserError(f"--compare {same[0]}=...: a checkpoint has this name; choose another")
    folder = settings.features or f"{settings.output}/features"
    store = FeatureStore(folder, _extract(settings, device), settings.image_size)
    probes = Probes(store, data.train, settings.probe_epochs, settings.seed, device)
    for model in models:
        model.network.to(device)
    return Context(settings, data, models, store, probes, device)


def _extract(settings: EvaluateSettings, device: torch.device) -> Any:
    """How features are extracted: in this process, or in those of Ray."""

    def in_this_process(
        models: Sequence[EvaluatedModel], sets: Sequence[ImageSet], size: int
    ) -> Iterator[tuple[int, Piece]]:
        networks = [model.network for model in models]
        for number, each in enumerate(sets):
            for piece in extract_here(networks, each, size, device, settings.batch_size, settings.readers):
                yield number, piece

    def on_ray(models: Sequence[EvaluatedModel], sets: Sequence[ImageSet], size: int) -> Iterator[tuple[int, Piece]]:
        from trainer.evaluate.distribute import extract_on_ray

        return extract_on_ray(models, sets, size, settings.batch_size, settings.readers, settings.workers)

    return in_this_process if settings.workers == 1 else on_ray


def _measured(context: Context) -> dict[str, Findings]:
    """The suites on features: first all that can be wrong, then all features, then the figures."""
    suites = {name: ON_FEATURES[name] for name in context.settings.suites() if name in ON_FEATURES}
    needed = [pictures for suite in suites.values() for pictures in suite.sets(context)]
    context.store.prepare(context.models, needed)
    return {name: suite.run(context) for name, suite in suites.items()}


def _results(
    model: EvaluatedModel, context: Context, found: dict[str, Findings], looked: Alignment | None
) -> dict[str, Any]:
    """What results.json says of a model."""
    about = {
        "location": model.location,
        "sha256": model.sha256,
        "image_size": context.store.size(model),
        "seed": context.settings.seed,
        "trained": dict(model.about),
    }
    tests = [test for test in looked.comparisons if model.name in test["models"]] if looked else []
    return {
        **{name: findings.results[model.name] for name, findings in found.items() if model.name in findings.results},
        **({"alignment_tests": tests} if looked else {}),
        "checkpoint": about,
        "notes": {name: findings.notes for name, findings in found.items()},
    }


def _table(rows: Sequence[Row]) -> bytes:
    """CSV; empty where there is no figure."""
    if not rows:
        return b""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: "" if value != value else value for name, value in row.items()} for row in rows])
    return text.getvalue().encode("utf-8", "surrogateescape")
