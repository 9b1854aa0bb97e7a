"""What the teacher loses on small photographs: its CC with eye tracking, at full size and reduced.

    python tests/benchmarks/small_photographs.py --people osie-eye:OSIE --side 84

Photographs are reduced with a shorter side of `--side` pixels, and as in mini-ImageNet to a square of that side, which
ignores the aspect ratio; both are saved as JPEG. The human attention map stays that of the whole photograph. Only
photographs that the bundled teacher was not trained on are used, the validation split of its training.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.fixations import FixatedImage
from common.fixations.maps import center_prior
from common.intervals import bootstrap_mean
from common.progress import progress_bar
from common.saliency import cc
from labeler.teacher.evaluation.predict import predict_map
from labeler.teacher.model import TeacherModel
from labeler.teacher.training.data import open_training_data
from labeler.teacher.weights import load_teacher

SPLIT_FRACTION, SPLIT_SEED = 0.2, 0  # the bundled teacher's
JPEG_QUALITY = 95  # that of mini-ImageNet at 84 px


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", required=True, metavar="FORMAT:FOLDER", help="photographs with eye tracking")
    parser.add_argument("--side", type=int, default=84, help="side of the reduced photographs in pixels (default: 84)")
    parser.add_argument("--teacher", default="bundled", help="name or file of the teacher (default: bundled)")
    arguments = parser.parse_args()
    [images] = open_training_data([arguments.people], [], SPLIT_FRACTION, SPLIT_SEED).validation.values()
    teacher = load_teacher(arguments.teacher)
    with tempfile.TemporaryDirectory() as folder:
        scores = [
            score_sizes(teacher, image, arguments.side, Path(folder))
            for image in progress_bar(images, desc="photographs", unit=" images")
        ]
    print_table({name: np.array([row[name] for row in scores]) for name in scores[0]})


def score_sizes(teacher: TeacherModel, image: FixatedImage, side: int, folder: Path) -> dict[str, float]:
    """Return the CC of the teacher's map by size of the photograph, and of a centered Gaussian."""
    scale = side / min(image.width, image.height)
    sizes = {
        f"shorter side {side} px": (round(image.width * scale), round(image.height * scale)),
        f"{side} x {side} px": (side, side),
    }
    photographs = {"full size": image} | {name: reduce_photograph(image, size, folder) for name, size in sizes.items()}
    human = image.attention_map(image.height, image.width)[None]
    maps = {name: predict_map(teacher, small, torch.device("cpu")) for name, small in photographs.items()}
    maps["centered Gaussian"] = center_prior(image.height, image.width)
    return {name: cc(attention[None], human).item() for name, attention in maps.items()}


def reduce_photograph(image: FixatedImage, size: tuple[int, int], folder: Path) -> FixatedImage:
    """Return an image with the same fixations, whose file is a JPEG of this width and height."""
    path = folder / "reduced-{}x{}.jpg".format(*size)
    pixels = Image.fromarray(image.pixels().permute(1, 2, 0).numpy())
    pixels.resize(size, Image.Resampling.LANCZOS).save(path, quality=JPEG_QUALITY)
    return replace(image, path=path, width=size[0], height=size[1])


def print_table(scores: dict[str, np.ndarray]) -> None:
    """Print the mean CC by size with its 95 % bootstrap interval, and the paired difference to full size."""
    print("| photographs | CC with eye tracking | difference to full size |\n|---|--:|--:|")
    for name, values in scores.items():
        cells = [format_mean(values)]
        cells.append("" if name == "full size" else format_mean(values - scores["full size"], sign="+"))
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{len(scores['full size'])} photographs; means with 95 % bootstrap intervals over them")


def format_mean(values: np.ndarray, sign: str = "") -> str:
    summary = bootstrap_mean(values, seed=0)
    low, high = summary["ci95"]
    return f"{summary['mean']:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


if __name__ == "__main__":
    main()
