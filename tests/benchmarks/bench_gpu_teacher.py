"""The teacher on a GPU in several ways of execution: the speed of each, and what it does to the labels.

The labels are compared with those of eager float32 over all photographs. A way that changes more than one pixel in
10,000 of the stored maps by more than 1 of 255, or the first five gaze points of any image, cannot be the default.
"""

import argparse
import copy
from collections.abc import Callable

import numpy as np
import torch
from timing import SHARED_DATA, Row, print_table, rates, require_path, skip, time_cases
from torch import Tensor, nn

from common.gaze import GAZE_SIGMA, find_peaks
from common.images import decode_jpeg
from common.manifest import LabelConfig
from labeler.labeling.label import Maps, predict_maps
from labeler.labeling.resize import MAX_SIDE, resize_batch
from labeler.planning.resolve import DEFAULTS
from labeler.teacher.model import SaliencyBranch, TeacherModel
from labeler.teacher.weights import load_teacher

BAR = 6000  # images/s on an H100
BATCH_SIZE = int(DEFAULTS["batch_size"])
CONFIG = LabelConfig()
COMPARED_POINTS = 5


class Variant(TeacherModel):
    """A teacher whose `predict` is replaced."""

    def __init__(self, predict: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.predict = predict


class InHalfPrecision(nn.Module):
    """A convolution in float16 whose input and output are float32."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution.half()

    def forward(self, features: Tensor) -> Tensor:
        return self.convolution(features.half()).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--photographs", type=int, default=300, help="number to compare labels on (default: 300)")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--any-device", action="store_true", help="also run without a GPU, to try the script")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.any_device:
        skip("needs a GPU")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.deterministic = True
    batches = load_batches(device, arguments.photographs, arguments.batch_size)
    scaled = batches[0] / 255
    teachers = make_variants(device, scaled)
    cases = {name: lambda teacher=teacher: run(teacher, scaled) for name, teacher in teachers.items()}
    seconds = time_cases(arguments.repetitions, **cases)
    rows = [
        Row(name, rates(durations, len(scaled)), "images/s", at_least=BAR if name == "eager float32" else None)
        for name, durations in seconds.items()
    ]
    print_table(f"teacher, forward, batches of {len(scaled)}", rows)
    expected = find_labels(teachers["eager float32"], batches)
    effects = [
        Row(name, describe_change(expected, find_labels(teacher, batches))) for name, teacher in teachers.items()
    ]
    print_table(f"labels of {len(expected[0])} photographs, against eager float32", effects)


def load_batches(device: torch.device, count: int, batch_size: int) -> list[Tensor]:
    """Return full batches of the teacher's inputs, float32 [batch size, 3, 480, 640] each."""
    paths = sorted(require_path(SHARED_DATA / "imagenet-sample").rglob("*.JPEG"))
    paths += sorted((SHARED_DATA / "osie").rglob("*.jpg"))
    pixels = (decode_jpeg(path.read_bytes()).to(device) for path in paths)
    images = [image for image in pixels if max(image.shape) <= MAX_SIDE][:count]
    batch_size = min(batch_size, len(images))
    starts = range(0, len(images) - batch_size + 1, batch_size)
    return [resize_batch(images[start : start + batch_size], batch_size).float() for start in starts]


def make_variants(device: torch.device, scaled: Tensor) -> dict[str, TeacherModel]:
    """Return the teacher in each way of execution. `scaled` is a batch of the only shape that is used."""
    eager = load_teacher("bundled").to(device)
    channels_last = copy.deepcopy(eager).to(memory_format=torch.channels_last)
    half = with_half_convolutions(eager)
    variants: dict[str, TeacherModel] = {
        "eager float32": eager,
        "channels last": Variant(lambda x: channels_last.predict(x.contiguous(memory_format=torch.channels_last))),
        "float16 convolutions": half,
        "compiled": Variant(torch.compile(eager.predict)),
        "compiled, channels last": Variant(torch.compile(channels_last.predict)),
        "compiled, float16 convolutions": Variant(torch.compile(half.predict)),
    }
    if device.type == "cuda":
        variants["CUDA graph"] = Variant(as_cuda_graph(eager.predict, scaled))
        variants["compiled, CUDA graph"] = Variant(as_cuda_graph(torch.compile(eager.predict), scaled))
        variants["compiled, float16 convolutions, CUDA graph"] = Variant(
            as_cuda_graph(torch.compile(half.predict), scaled)
        )
    return variants


def with_half_convolutions(teacher: TeacherModel) -> TeacherModel:
    """Copy a teacher and run the convolutions of its backbone in float16; norms and saliency branches stay float32."""
    teacher = copy.deepcopy(teacher)
    parents = [module for module in teacher.modules() if not isinstance(module, SaliencyBranch)]
    branches = {
        id(child) for module in teacher.modules() if isinstance(module, SaliencyBranch) for child in module.modules()
    }
    for parent in parents:
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and id(child) not in branches:
                setattr(parent, name, InHalfPrecision(child))
    return teacher


def as_cuda_graph(
    predict: Callable[[Tensor], tuple[Tensor, Tensor]], scaled: Tensor
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Record a function as a CUDA graph for inputs of one shape. The outputs are overwritten by the next call."""
    static = scaled.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(3):
            predict(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        outputs = predict(static)

    def replay(inputs: Tensor) -> tuple[Tensor, Tensor]:
        static.copy_(inputs)
        graph.replay()
        return outputs

    return replay


def run(teacher: TeacherModel, scaled: Tensor) -> None:
    """Run the teacher on a batch and wait for the device."""
    with torch.inference_mode():
        teacher.predict(scaled)
    if scaled.is_cuda:
        torch.cuda.synchronize()


def find_labels(teacher: TeacherModel, batches: list[Tensor]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the stored maps, uint8 [N, S, S], and the first gaze points of each image."""
    stored, points = [], []
    for batch in batches:
        maps: Maps = predict_maps(teacher, batch, CONFIG.map_size)
        peaks = find_peaks(maps.grid, GAZE_SIGMA, CONFIG.gaze_threshold, COMPARED_POINTS)
        stored.append(maps.stored.cpu().numpy())
        points += [peaks.points(index)[:, :2] for index in range(len(batch))]
    return np.concatenate(stored), points


def describe_change(expected: tuple[np.ndarray, list[np.ndarray]], found: tuple[np.ndarray, list[np.ndarray]]) -> str:
    """Say how many pixels of the maps moved by more than 1 of 255, and the gaze points of how many images moved."""
    moved = (np.abs(expected[0].astype(int) - found[0]) > 1).mean() * 10_000
    images = sum(not np.array_equal(a, b) for a, b in zip(expected[1], found[1], strict=True))
    return f"{moved:.2f} pixels in 10,000; gaze points of {images} images"


if __name__ == "__main__":
    main()
