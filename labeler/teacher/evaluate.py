"""How well does a teacher predict where people look? Scores on human fixations, beside a centre prior and people.

    python -m labeler.teacher.evaluate --teacher TEACHER --data FORMAT:FOLDER

A table comes first; the last line is one JSON object: teacher, and for each data set its images and the mean of every
metric with its 95 % bootstrap interval. The output folder receives index.html to look at, per_image.csv and
results.json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, run_program
from common.fixations import FORMATS
from common.progress import progress_bar
from common.storage import Storage, open_storage
from labeler.teacher import DEFAULT_TEACHER, TEACHERS
from labeler.teacher.evaluation.data import open_data, select_images

if TYPE_CHECKING:
    import torch

OUTPUT = "runs/teacher-evaluation"


def main(argv: list[str] | None = None) -> int:
    """Entry point. Raises UserError."""
    arguments = _arguments(argv)
    data = open_data(arguments.data)
    images = select_images(data, arguments.names)
    storage = open_storage(arguments.output)
    storage.check_writable()
    # imported here: torch takes seconds, and --help needs none
    from labeler.teacher.evaluation.page import evaluation_page
    from labeler.teacher.evaluation.predict import score_images
    from labeler.teacher.evaluation.summary import (
        Evaluation,
        format_table,
        per_image_objects,
        per_image_table,
        summarize,
    )
    from labeler.teacher.weights import find_teacher

    device, source = _device(arguments.device), find_teacher(arguments.teacher)
    teacher: Any = source.build().to(device)
    evaluations, summaries = [], {}
    for location, chosen in images.items():
        everyone, left_out, _ = data[location]
        scores = score_images(teacher, chosen, everyone, device, arguments.seed)
        shown = progress_bar(scores, desc=location, total=len(chosen), unit=" images")
        evaluation = Evaluation(location, chosen, list(shown), left_out)
        evaluations.append(evaluation)
        summaries[location] = summarize(evaluation, arguments.seed)
        print(format_table(location, summaries[location]), end="\n\n", flush=True)
    results = {"teacher": {"name": source.identity.name, "sha256": source.identity.sha256}, "data": summaries}
    everything = {
        **results,
        "seed": arguments.seed,
        "per_image": {evaluation.data: per_image_objects(evaluation) for evaluation in evaluations},
    }
    page = evaluation_page(source.identity, teacher, device, evaluations, summaries)
    files = {
        "per_image.csv": per_image_table(evaluations),
        "results.json": json.dumps(everything, indent=1, allow_nan=False) + "\n",
        "index.html": page,
    }
    _write(storage, files)
    print(f"{arguments.output.rstrip('/')}/index.html", end="\n\n")
    print(json.dumps(results, ensure_ascii=False, allow_nan=False))
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m labeler.teacher.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="formats of --data:\n" + "\n".join(f"  {name}:FOLDER  {meaning}" for name, meaning in FORMATS.items()),
    )
    parser.add_argument(
        "--teacher",
        default=DEFAULT_TEACHER,
        metavar="TEACHER",
        help=f"{TEACHERS} (default: {DEFAULT_TEACHER})",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="FORMAT:FOLDER[:SPLIT]",
        help="photographs and where people looked; may be repeated, each data set is scored by itself (required)",
    )
    parser.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="score only the images named in this text file, one name a line (default: all)",
    )
    parser.add_argument(
        "--output", default=OUTPUT, metavar="FOLDER", help=f"local or s3://BUCKET/PREFIX (default: {OUTPUT})"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: cuda where there is one, else cpu)")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the halves of people, shuffled AUC's other images and the intervals (default: 0)",
    )
    arguments = parser.parse_args(argv)
    if not arguments.data:
        raise UserError("--data is needed: FORMAT:FOLDER of photographs and where people looked; --help lists formats")
    if arguments.seed < 0:
        raise UserError(f"--seed: expected 0 or more, found {arguments.seed}")
    return arguments


def _device(name: str | None) -> "torch.device":
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no usable GPU here; leave the flag out to use the CPU")
    from common.launch import default_device

    return torch.device(name) if name else default_device()


def _write(storage: Storage, files: dict[str, str]) -> None:
    """Each file whole or not at all."""
    try:
        for name, content in files.items():
            storage.replace(name, content.encode("utf-8", "surrogateescape"))
        storage.sweep()
    except OSError as error:
        raise UserError(f"cannot write to {storage.location}: {error.strerror}") from None


if __name__ == "__main__":
    run_program(main)
