"""HTML page of a teacher's evaluation: scores, their distribution over images, and the best and worst images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from common import page
from common.alignment import EXPLANATION as METRICS_EXPLANATION
from common.alignment import METRICS
from common.fixations import FixatedImage, exclusion_notes
from common.manifest import Teacher
from common.page import Html
from common.text import join_names, pluralize
from labeler.teacher.evaluation.predict import predict_map
from labeler.teacher.evaluation.scoring import ImageScores
from labeler.teacher.evaluation.summary import PREDICTIONS, Evaluation, format_score_rows
from labeler.teacher.model import TeacherModel

IMAGES_PER_GROUP = 4  # images in each group: best, middle, worst
MAX_NAMES_PER_NOTE = 10  # images named in a note
CC_BIN_WIDTH = 0.05
SHORT_METRICS = {"kld": "KLD"}  # labels in captions, for metrics whose label in tables is too long
EXPLANATION = (
    "Scores are means over images with 95 % bootstrap intervals. The centered Gaussian is the same map for every "
    "image, and uses no data. Human split-half: one half of an image's subjects predicts the other half. A half has "
    "fewer subjects than the whole, so its map is noisier than the map that the teacher is compared with, and a "
    "perfect teacher could exceed the split-half. This affects KLD most, which penalizes every location that one half "
    "fixated and at which the other half's map is 0."
)


def make_evaluation_page(
    identity: Teacher,
    teacher: TeacherModel,
    device: torch.device,
    evaluations: Sequence[Evaluation],
    summaries: Mapping[str, Mapping[str, Any]],
) -> Html:
    """Return the page of an evaluation.

    The maps of the images shown are predicted anew. Raises UserError if that fails.

    Args:
        identity: name and checksum of the teacher.
        teacher: the teacher, on `device`.
        device: where maps are predicted.
        evaluations: the scores of each data set.
        summaries: what `summarize` returns, by location of the data set.
    """
    return page.document(
        f"{identity.name}: evaluation on human fixations",
        "How well the teacher predicts where people look. Left: human attention map; right: the teacher's map. "
        "The scores of every image are in per_image.csv and results.json in the same folder.",
        page.paragraph(METRICS_EXPLANATION),
        page.paragraph(EXPLANATION),
        page.layer_switches(points=False),
        *(_data_set_section(evaluation, summaries[evaluation.data], teacher, device) for evaluation in evaluations),
        page.paragraph(f"Teacher {identity.name}, sha256 {identity.sha256}."),
    )


def select_extremes(evaluation: Evaluation) -> dict[str, list[tuple[FixatedImage, ImageScores]]]:
    """Return the images with the highest, middle and lowest CC by title, without repetition."""
    order = np.argsort(-evaluation.values("teacher", "cc"), kind="stable")
    best, rest = order[:IMAGES_PER_GROUP], order[IMAGES_PER_GROUP:]
    between, worst = np.split(rest, [max(len(rest) - IMAGES_PER_GROUP, 0)])
    start = max(len(between) - IMAGES_PER_GROUP, 0) // 2
    groups = {"Best by CC": best, "Middle by CC": between[start : start + IMAGES_PER_GROUP], "Worst by CC": worst}
    return {
        title: [(evaluation.images[index], evaluation.scores[index]) for index in indices.tolist()]
        for title, indices in groups.items()
    }


def _data_set_section(
    evaluation: Evaluation, summary: Mapping[str, Any], teacher: TeacherModel, device: torch.device
) -> Html:
    groups = []
    for title, members in select_extremes(evaluation).items():
        if members:
            figures = [_comparison_figure(image, scores, teacher, device) for image, scores in members]
            groups += [page.element("h3", title), page.grid(figures, wide=True)]
    return page.section(
        evaluation.data,
        _tiles(summary),
        page.notes(_notes(evaluation)),
        page.table(["metric", *PREDICTIONS.values()], format_score_rows(summary)),
        page.element("h3", "CC of each image"),
        page.grid(_histograms(evaluation), wide=True),
        *groups,
    )


def _tiles(summary: Mapping[str, Any]) -> Html:
    """Return the key figures of a data set."""

    def mean(prediction: str, metric: str) -> str:
        value = summary[prediction][metric]["mean"]
        return "-" if value is None else f"{value:.2f}"

    return page.tiles(
        {
            "images": summary["images"],
            "teacher CC": mean("teacher", "cc"),
            "CC with permuted targets": mean("teacher", "cc_permuted"),
            "center prior CC": mean("teacher", "cc_center"),
            "human split-half CC": mean("human_split_half", "cc"),
            "teacher NSS": mean("teacher", "nss"),
            "human split-half NSS": mean("human_split_half", "nss"),
            "teacher shuffled AUC": mean("teacher", "auc_shuffled"),
        }
    )


def _notes(evaluation: Evaluation) -> list[str]:
    """Return sentences on excluded images and on images that are scored differently."""
    constant = [scores.image for scores in evaluation.scores if scores.constant]
    without_halves = [scores.image for scores in evaluation.scores if scores.human_split_half is None]
    notes = exclusion_notes("the data set", evaluation.excluded, {})
    if constant:
        notes.append(f"The teacher's map is constant, which scores at chance level: {_list_images(constant)}")
    if without_halves:
        notes.append(f"No human split-half score for lack of a second subject: {_list_images(without_halves)}")
    return notes


def _list_images(names: Sequence[str]) -> str:
    return f"{pluralize(len(names), 'image')} ({join_names(names, MAX_NAMES_PER_NOTE)})"


def _histograms(evaluation: Evaluation) -> list[Html]:
    """Return histograms of CC for the teacher and the human split-half, with the same bins."""
    scores = {prediction: evaluation.values(prediction, "cc") for prediction in ("teacher", "human_split_half")}
    first_bin = np.floor(np.nanmin(np.concatenate(list(scores.values()))) / CC_BIN_WIDTH).clip(max=0)
    edges = (np.arange(first_bin, round(1 / CC_BIN_WIDTH) + 1) * CC_BIN_WIDTH).round(2)
    return [
        page.histogram(PREDICTIONS[prediction], values[~np.isnan(values)].clip(max=1).tolist(), edges)
        for prediction, values in scores.items()
        if not np.isnan(values).all()
    ]


def _comparison_figure(image: FixatedImage, scores: ImageScores, teacher: TeacherModel, device: torch.device) -> Html:
    """Return a photograph twice, under the human attention map and under the teacher's map, with its scores."""
    size = image.width, image.height
    photograph = Image.fromarray(image.pixels().permute(1, 2, 0).numpy())
    maps = image.attention_map(image.height, image.width), predict_map(teacher, image, device)
    pair = [
        page.attention_picture(photograph, page.normalize_map(attention.cpu().numpy()), np.empty((0, 3)), size)
        for attention in maps
    ]
    details = [f"{SHORT_METRICS.get(metric, METRICS[metric])} {value:.2f}" for metric, value in scores.teacher.items()]
    if scores.human_split_half:
        details.append(f"human split-half CC {scores.human_split_half['cc']:.2f}")
    return page.figure(page.element("div", *pair, class_="pair"), page.breakable(image.name), " · ".join(details))
