"""Validation of the averaged weights on held-out images."""

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed

from common.fixations import FixatedImage
from common.saliency import cc, nss
from labeler.teacher.training.examples import make_fixated_example
from labeler.teacher.training.trainer import TeacherTrainer
from labeler.teacher.training.views import FULL_VIEW


class ImageScore(NamedTuple):
    """Scores of the map of one image against the fixations of one data set."""

    data_set: str
    cc: float
    nss: float


@torch.no_grad()
def validate(trainer: TeacherTrainer, images: dict[str, list[FixatedImage]]) -> dict[str, dict[str, float]]:
    """Return mean CC and NSS of the averaged weights by data set: {location: {"cc": ..., "nss": ...}}.

    The photographs are divided among the ranks; all ranks must call this function and get the same scores. A photograph
    of several data sets (OSIE's eye and mouse tracking) passes through the network once. Raises UserError if its maps
    hold NaN.
    """
    rank = trainer.rank
    by_file: dict[Path, list[tuple[str, FixatedImage]]] = defaultdict(list)
    for data_set, members in images.items():
        for image in members:
            by_file[image.path.resolve()].append((data_set, image))
    files = sorted(by_file)[rank.index :: rank.world_size]
    scores = [score for path in files for score in _score_file(trainer, by_file[path])]
    if rank.world_size > 1:
        gathered: list[Any] = [None] * rank.world_size
        torch.distributed.all_gather_object(gathered, scores)
        scores = [score for part in gathered for score in part]
    return {data_set: _mean_scores([score for score in scores if score.data_set == data_set]) for data_set in images}


def _score_file(trainer: TeacherTrainer, images: list[tuple[str, FixatedImage]]) -> list[ImageScore]:
    """Score one photograph against its fixations in each data set."""
    examples = [(data_set, make_fixated_example(image, FULL_VIEW)) for data_set, image in images]
    pixels = examples[0][1].pixels[None].to(trainer.rank.device).float() / 255
    predicted = trainer.average.module.eval()(trainer.resize_images(pixels))
    try:
        return [
            ImageScore(
                data_set,
                cc(predicted, example.target[None].to(predicted)).item(),
                nss(predicted, [example.fixations]).item(),
            )
            for data_set, example in examples
        ]
    except ValueError as error:  # the metrics refuse NaN
        raise trainer.divergence_error(str(error)) from None


def _mean_scores(scores: list[ImageScore]) -> dict[str, float]:
    values = torch.tensor([[score.cc, score.nss] for score in scores], dtype=torch.float64)
    mean_cc, mean_nss = values.mean(0).tolist()
    return {"cc": mean_cc, "nss": mean_nss}
