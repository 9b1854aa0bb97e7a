"""Top-1 accuracy of a probe or classifier on images that the model was not trained on: shards or class folders."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from common.errors import ImageFailure, UserError, describe_error
from common.images import read_photograph
from trainer.data.crops import center_crop
from trainer.data.dataset import Dataset
from trainer.data.decoding import Members, decode_label
from trainer.data.shard_cache import ShardCache
from trainer.data.shard_reader import ShardReader
from trainer.evaluate.images.image_sets import MAX_PIXELS, FolderImages, check_classes
from trainer.objectives import Model

IMAGES_PER_BATCH = 256

T = TypeVar("T")


class LabeledImage(NamedTuple):
    """A center crop, uint8 [3, S, S], and its class index."""

    image: Tensor
    label: int


@torch.no_grad()
def measure_accuracy(model: Model, images: Iterable[LabeledImage], device: torch.device) -> float:
    """Return the fraction of images whose class gets the highest logit; NaN without images.

    The model must have a probe or classifier and be on `device`. It runs in evaluation mode; its mode is restored.
    """
    correct = total = 0
    for pixels, labels in evaluation_batches(model, images, device):
        logits = model.logits(pixels)
        assert logits is not None
        correct += int((logits.argmax(1) == labels).sum())
        total += len(labels)
    return correct / total if total else float("nan")


def evaluation_batches(
    model: Model, images: Iterable[LabeledImage], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of images, float [B, 3, S, S] in [0, 1], and their labels, int64 [B], on a device.

    Meanwhile the model is in evaluation mode; its mode is restored after the last batch.
    """
    was_training = model.training
    model.eval()
    remaining = iter(images)
    while batch := list(islice(remaining, IMAGES_PER_BATCH)):
        pixels = torch.stack([image for image, _ in batch]).to(device).float() / 255
        yield pixels, torch.tensor([label for _, label in batch], device=device)
    model.train(was_training)


def read_shard_images(
    data: Dataset, size: int, threads: int = 2, skip_damaged: bool = False, cache: ShardCache | None = None
) -> Iterator[LabeledImage]:
    """Yield an 87.5 % center crop of every image of a data set, in order.

    Args:
        data: data set with classes.
        size: side of the crops in pixels, after resizing.
        threads: number of decoder threads.
        skip_damaged: whether to skip images that cannot be read, and what follows the damage in a damaged shard.
        cache: keeps shards on a local disk; None reads them from the data set each time.

    Raises UserError if an image or a shard cannot be read, unless it is skipped.
    """
    reader = ShardReader(data, skip_damaged, cache)
    for shard, name in enumerate(data.shards):
        samples = reader.read(shard)
        tasks = [partial(_read_sample, f"{data.location}/{name}", files, size, data.classes) for files in samples]
        for image in _run_in_threads(tasks, threads):
            if isinstance(image, LabeledImage):
                yield image
            elif not skip_damaged:
                raise image


def open_val_folders(location: str, classes: list[str], flag: str = "--val") -> FolderImages:
    """Open validation images in class folders, named by a flag.

    Raises UserError unless the folders are named as the classes.
    """
    images = FolderImages(flag, location, "val")
    check_classes(images.classes, classes, f"{flag} {location}", "the training data")
    return images


def read_folder_images(
    images: FolderImages,
    classes: list[str],
    size: int,
    unreadable: dict[str, str],
    threads: int = 2,
    every: slice = slice(None),
) -> Iterator[LabeledImage]:
    """Yield an 87.5 % center crop of every image in class folders that can be read, in order.

    Args:
        images: the images.
        classes: class names of the model by index; the labels are these indices.
        size: side of the crops in pixels, after resizing.
        unreadable: gets the reasons why the other images cannot be read, by name.
        threads: number of decoder threads.
        every: selects a part of the images.
    """
    indices = [classes.index(name) for name in images.classes]

    def read_crop(number: int) -> LabeledImage | ImageFailure:
        try:
            return LabeledImage(center_crop(images.read(number), size), indices[images.labels[number]])
        except ImageFailure as failure:
            return failure

    tasks = [partial(read_crop, number) for number in range(len(images.names))[every]]
    for name, image in zip(images.names[every], _run_in_threads(tasks, threads), strict=True):
        if isinstance(image, ImageFailure):
            unreadable[name] = str(image)
        else:
            yield image


def _read_sample(shard: str, files: Members, size: int, classes: int | None) -> LabeledImage | UserError:
    try:
        label = decode_label(files, classes)
        return LabeledImage(center_crop(read_photograph(files["jpg"], MAX_PIXELS, 1)[0], size), label)
    except (ImageFailure, KeyError, ValueError) as error:
        return UserError(f"{shard}: {files['__key__']!s} cannot be read: {describe_error(error)}")


def _run_in_threads(tasks: Sequence[Callable[[], T]], threads: int) -> Iterator[T]:
    """Yield the tasks' results in order; at most a batch of them is in memory."""
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for start in range(0, len(tasks), IMAGES_PER_BATCH):
            yield from pool.map(lambda task: task(), tasks[start : start + IMAGES_PER_BATCH])
