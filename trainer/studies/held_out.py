"""How often a probe or classifier is right on images that it did not learn from: held-out shards, or class folders."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from common.errors import ImageFailure, UserError, describe_error
from common.images import read_photograph
from common.shards import read_samples
from common.storage import open_storage
from trainer.data.crops import center_crop
from trainer.data.dataset import Dataset
from trainer.evaluate.images.image_sets import MAX_PIXELS, FolderImages, check_classes
from trainer.objectives import Model

BATCH = 256


class LabeledImage(NamedTuple):
    """The middle of an image, uint8 [3, S, S], and its class index."""

    image: Tensor
    label: int


@torch.no_grad()
def measure_accuracy(model: Model, examples: Iterable[LabeledImage], device: torch.device) -> float:
    """Top-1 of a model that has logits, on its device, in evaluation mode; NaN without examples."""
    learning, right, number = model.training, 0, 0
    model.eval()
    remaining = iter(examples)
    while batch := list(islice(remaining, BATCH)):
        images = torch.stack([example.image for example in batch]).to(device).float() / 255
        logits = model.logits(images)
        assert logits is not None
        right += int((logits.argmax(1).cpu() == torch.tensor([example.label for example in batch])).sum())
        number += len(batch)
    model.train(learning)
    return right / number if number else float("nan")


def read_shard_images(data: Dataset, size: int, threads: int = 2) -> Iterator[LabeledImage]:
    """The images of all shards, an 87.5 % centre crop of each in `size`. Raises UserError where one cannot be read."""
    storage = open_storage(data.location)
    for name in data.shards:
        samples = read_samples(io.BytesIO(storage.read(name)))
        yield from _made(
            [
                partial(
                    _example, f"{data.location}/{name}: {key}", partial(_pixels, members), int(members["cls"]), size
                )
                for key, members in samples
            ],
            threads,
        )


def open_val_folders(location: str, classes: list[str]) -> FolderImages:
    """Validation images. Raises UserError where their class folders are not exactly these classes."""
    pictures = FolderImages("--val", location, "val")
    check_classes(pictures.classes, classes, f"--val {location}", "the training data")
    return pictures


def read_folder_images(
    pictures: FolderImages, classes: list[str], size: int, threads: int = 2
) -> Iterator[LabeledImage]:
    """The images of class folders, likewise, each class at its place in `classes`. Raises UserError likewise."""
    places = [classes.index(name) for name in pictures.classes]
    tasks = [
        partial(_example, f"--val: {name}", partial(pictures.read, index), places[label], size)
        for index, (name, label) in enumerate(zip(pictures.names, pictures.labels, strict=True))
    ]
    yield from _made(tasks, threads)


def _pixels(members: Mapping[str, bytes]) -> Tensor:
    return read_photograph(members["jpg"], MAX_PIXELS, 1)[0]


def _example(name: str, read: Callable[[], Tensor], label: int, size: int) -> LabeledImage:
    try:
        return LabeledImage(center_crop(read(), size), label)
    except (ImageFailure, KeyError) as error:
        raise UserError(f"{name} cannot be read: {describe_error(error)}") from None


def _made(tasks: Sequence[Callable[[], LabeledImage]], threads: int) -> Iterator[LabeledImage]:
    """In order, decoded by threads, some ahead."""
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for start in range(0, len(tasks), BATCH):
            yield from pool.map(lambda task: task(), tasks[start : start + BATCH])
