"""An evaluation from start to end: open the data, score the teacher on it, write the results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.launch import default_device
from common.progress import progress_bar
from common.storage import Storage, open_storage
from labeler.teacher.evaluation.data import open_data, select_images
from labeler.teacher.evaluation.page import make_evaluation_page
from labeler.teacher.evaluation.scoring import score_images
from labeler.teacher.evaluation.summary import (
    Evaluation,
    format_per_image_csv,
    format_table,
    list_scores_per_image,
    summarize,
)
from labeler.teacher.weights import find_teacher


def evaluate_teacher(
    teacher_name: str,
    locations: Sequence[str],
    names_file: Path | None,
    output: str,
    device_name: str | None,
    seed: int,
) -> dict[str, Any]:
    """Score a teacher on data sets, print a table for each, and write index.html, per_image.csv and results.json.

    Args:
        teacher_name: name of the teacher, see `labeler.teacher.weights.load_teacher`.
        locations: data sets, each FORMAT:FOLDER.
        names_file: score only the images that this file lists; None: all.
        output: folder of the results, local or s3://BUCKET/PREFIX.
        device_name: "cpu" or "cuda"; None: cuda if there is a usable GPU.
        seed: random seed of the split halves, shuffled AUC's negatives, the permuted targets and the intervals.

    Returns the identity of the teacher and the summary of each data set: `{"teacher": ..., "data": ...}`. Raises
    UserError if an input cannot be used or the output cannot be written.
    """
    data = open_data(locations)
    images = select_images(data, names_file)
    storage = open_storage(output)
    storage.check_writable()
    device = select_device(device_name)
    source = find_teacher(teacher_name)
    teacher = source.build().to(device)

    evaluations, summaries = [], {}
    for location, selected in images.items():
        scores = score_images(teacher, selected, data[location].images, device, seed)
        with_progress = progress_bar(scores, desc=location, total=len(selected), unit=" images")
        evaluation = Evaluation(location, selected, list(with_progress), data[location].excluded)
        evaluations.append(evaluation)
        summaries[location] = summarize(evaluation, seed)
        print(format_table(location, summaries[location]), end="\n\n", flush=True)

    results = {"teacher": {"name": source.identity.name, "sha256": source.identity.sha256}, "data": summaries}
    per_image = {evaluation.data: list_scores_per_image(evaluation) for evaluation in evaluations}
    all_results = {**results, "seed": seed, "per_image": per_image}
    files = {
        "per_image.csv": format_per_image_csv(evaluations),
        "results.json": json.dumps(all_results, indent=1, allow_nan=False) + "\n",
        "index.html": make_evaluation_page(source.identity, teacher, device, evaluations, summaries),
    }
    _write_files(storage, files)
    return results


def select_device(name: str | None) -> torch.device:
    """Return the named device, by default the GPU if PyTorch finds one. Raises UserError if there is no such device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no usable GPU; omit the flag to use the CPU")
    return torch.device(name) if name else default_device()


def _write_files(storage: Storage, files: dict[str, str]) -> None:
    """Write each file atomically. Raises UserError."""
    try:
        for name, content in files.items():
            storage.replace(name, content.encode("utf-8", "surrogateescape"))
        storage.sweep()
    except OSError as error:
        raise UserError(f"cannot write to {storage.location}: {error.strerror}") from None
