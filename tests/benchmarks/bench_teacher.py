"""The teacher's forward pass on a CPU, against LiteRT running the published file.

Both process the same eight photographs at 480 x 640, one at a time, decoded and resized before. The file's second
output (one point) costs next to nothing. Both use one thread; with `--all-cores`, all cores.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from timing import SHARED_DATA, Row, print_table, ratios, require_path, skip, time_cases

from common.images import decode_jpeg
from common.text import pluralize
from labeler.labeling.label import to_teacher_input
from labeler.teacher.weights import load_teacher

BAR = 12
PHOTOGRAPHS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all-cores", action="store_true", help="use all cores for both instead of one thread")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    threads = (os.cpu_count() or 1) if arguments.all_cores else 1
    weights = require_path(SHARED_DATA / "attention-center" / "center.tflite")
    paths = sorted(require_path(SHARED_DATA / "imagenet-sample").rglob("*.JPEG"))[:PHOTOGRAPHS]
    inputs = torch.stack([to_teacher_input(decode_jpeg(path.read_bytes()), 1) for path in paths])
    images = inputs.float() / 255
    cases = {"ours": teacher_pass(weights, images, threads), "litert": litert_pass(weights, images, threads)}
    seconds = time_cases(arguments.repetitions, **cases)
    milliseconds = {name: [value / PHOTOGRAPHS * 1e3 for value in values] for name, values in seconds.items()}
    print_table(
        f"teacher, 480 x 640, batch 1, {pluralize(threads, 'thread')}",
        [
            Row("LiteRT", milliseconds["litert"], "ms per image"),
            Row("ours", milliseconds["ours"], "ms per image"),
            Row("LiteRT / ours", ratios(seconds["litert"], seconds["ours"]), "x", BAR),
        ],
    )


def teacher_pass(weights: Path, images: torch.Tensor, threads: int):
    """Return a function that predicts the maps of all images with this project's network."""
    torch.set_num_threads(threads)
    teacher = load_teacher(str(weights))

    def run() -> None:
        with torch.inference_mode():
            for image in images:
                teacher.predict(image[None])

    return run


def litert_pass(weights: Path, images: torch.Tensor, threads: int):
    """Return a function that predicts the maps of all images with LiteRT."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        skip("needs ai-edge-litert, the implementation to compare with: pip install ai-edge-litert")
    interpreter = Interpreter(str(weights), num_threads=threads)
    interpreter.allocate_tensors()
    indices = {detail["name"].partition(":")[0]: detail["index"] for detail in interpreter.get_input_details()}
    interpreter.set_tensor(indices["filename"], np.array("photograph", dtype=object))
    arrays = [image.permute(1, 2, 0)[None].contiguous().numpy() for image in images]

    def run() -> None:
        for array in arrays:
            interpreter.set_tensor(indices["image"], array)
            interpreter.invoke()

    return run


if __name__ == "__main__":
    main()
