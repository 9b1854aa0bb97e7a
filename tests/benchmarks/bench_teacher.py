"""The teacher's forward pass on a CPU, against LiteRT running the published file.

Both get the same eight photographs at 480 x 640, one at a time, already decoded and resized. What the file computes
beyond the map (one point) is negligible. One thread each; `--all-cores` gives both all of them.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from timing import SHARED_DATA, against, medians, needed, skip, table
from torchvision.io import ImageReadMode, decode_image

from labeler.labeling.label import to_teacher_input
from labeler.teacher.weights import load_teacher

BAR = 12
PHOTOGRAPHS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all-cores", action="store_true", help="not one thread, but all cores for both")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    threads = (os.cpu_count() or 1) if arguments.all_cores else 1
    weights = needed(SHARED_DATA / "attention-center" / "center.tflite")
    paths = sorted(needed(SHARED_DATA / "imagenet-sample").rglob("*.JPEG"))[:PHOTOGRAPHS]
    pictures = torch.stack([to_teacher_input(decode_image(str(path), ImageReadMode.RGB), 1) for path in paths])
    images = pictures.float() / 255
    cases = {"ours": ours(weights, images, threads), "litert": litert(weights, images, threads)}
    seconds = {name: value / PHOTOGRAPHS for name, value in medians(arguments.repetitions, **cases).items()}
    table(
        f"teacher, 480 x 640, batch 1, {threads} thread{'s' if threads > 1 else ''}",
        [
            ("LiteRT", f"{seconds['litert'] * 1e3:.1f} ms an image", ""),
            ("ours", f"{seconds['ours'] * 1e3:.1f} ms an image", ""),
            ("LiteRT / ours", *against(seconds["litert"] / seconds["ours"], BAR)),
        ],
    )


def ours(weights: Path, images: torch.Tensor, threads: int):
    """Maps of all images with our network."""
    torch.set_num_threads(threads)
    teacher = load_teacher(str(weights))

    def run() -> None:
        with torch.inference_mode():
            for image in images:
                teacher.predict(image[None])

    return run


def litert(weights: Path, images: torch.Tensor, threads: int):
    """The same with LiteRT."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        skip("needs ai-edge-litert, the other implementation: pip install ai-edge-litert")
    interpreter = Interpreter(str(weights), num_threads=threads)
    interpreter.allocate_tensors()
    inputs = {detail["name"].partition(":")[0]: detail["index"] for detail in interpreter.get_input_details()}
    interpreter.set_tensor(inputs["filename"], np.array("photograph", dtype=object))
    arrays = [image.permute(1, 2, 0)[None].contiguous().numpy() for image in images]

    def run() -> None:
        for array in arrays:
            interpreter.set_tensor(inputs["image"], array)
            interpreter.invoke()

    return run


if __name__ == "__main__":
    main()
