"""The page of a teacher's evaluation: scores, their spread over images, and what the best and the worst look like."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from common import page
from common.fixations import FixatedImage, exclusion_notes
from common.manifest import Teacher
from common.page import Html
from common.text import join_names
from labeler.teacher.evaluation.image_scores import ImageScores
from labeler.teacher.evaluation.predict import predict_map
from labeler.teacher.evaluation.summary import METRICS, PREDICTIONS, Evaluation, format_score
from labeler.teacher.weights import Predictor

PER_GROUP = 4  # pictures
NAMED = 10  # images in a note
BIN = 0.05  # of CC
EXPLAINED = (
    "Means over images with 95 % bootstrap intervals. The centre prior is a Gaussian in the middle of every image. "
    "Human split-half: one half of an image's subjects predicts the other half. Halves have fewer subjects than the "
    "whole, so their maps are noisier than the map that the teacher is scored on, and a perfect teacher could score "
    "higher. KLD suffers most: it punishes every place where the map of a half is 0 and the other half looked."
)


def evaluation_page(
    identity: Teacher,
    teacher: Predictor,
    device: torch.device,
    evaluations: Sequence[Evaluation],
    summaries: Mapping[str, Mapping[str, Any]],
) -> Html:
    """The whole page; the teacher looks again at the images that are shown. Raises UserError like the scoring."""

    def pictures(chosen: Sequence[tuple[FixatedImage, ImageScores]]) -> Html:
        return page.grid([_comparison(image, scores, teacher, device) for image, scores in chosen], wide=True)

    parts = []
    for evaluation in evaluations:
        summary = summaries[evaluation.data]
        groups = select_extremes(evaluation)
        parts.append(
            page.section(
                evaluation.data,
                _tiles(summary),
                page.notes(_notes(evaluation)),
                _table(summary),
                page.element("h3", "CC of each image"),
                page.grid(_histograms(evaluation), wide=True),
                *(
                    part
                    for title, chosen in groups.items()
                    if chosen
                    for part in (page.element("h3", title), pictures(chosen))
                ),
            )
        )
    return page.document(
        f"{identity.name}: where would people look?",
        "How well the teacher predicts where people looked. Left: the map of people's fixations; right: the teacher's. "
        "per_image.csv and results.json, beside this page, hold the scores of every image.",
        page.paragraph(EXPLAINED),
        page.layer_switches(points=False),
        *parts,
        page.paragraph(f"Teacher {identity.name}, sha256 {identity.sha256}."),
    )


def select_extremes(evaluation: Evaluation) -> dict[str, list[tuple[FixatedImage, ImageScores]]]:
    """The images of highest, middle and lowest CC, each at most once."""
    order = np.argsort(-evaluation.of("teacher", "cc"), kind="stable")
    best, rest = order[:PER_GROUP], order[PER_GROUP:]
    worst, between = rest[max(len(rest) - PER_GROUP, 0) :], rest[: max(len(rest) - PER_GROUP, 0)]
    start = max(len(between) - PER_GROUP, 0) // 2
    groups = {"Best by CC": best, "In the middle": between[start : start + PER_GROUP], "Worst by CC": worst}
    return {
        title: [(evaluation.images[index], evaluation.scores[index]) for index in chosen.tolist()]
        for title, chosen in groups.items()
    }


def _tiles(summary: Mapping[str, Any]) -> Html:
    def mean(prediction: str, metric: str) -> str:
        value = summary[prediction][metric]["mean"]
        return "-" if value is None else f"{value:.2f}"

    return page.tiles(
        {
            "images": summary["images"],
            "teacher's CC": mean("teacher", "cc"),
            "centre prior's CC": mean("centre_prior", "cc"),
            "human split-half CC": mean("human_split_half", "cc"),
            "teacher's NSS": mean("teacher", "nss"),
            "centre prior's NSS": mean("centre_prior", "nss"),
            "human split-half NSS": mean("human_split_half", "nss"),
            "teacher's shuffled AUC": mean("teacher", "shuffled_auc"),
        }
    )


def _table(summary: Mapping[str, Any]) -> Html:
    rows = [
        (label, *(format_score(summary[name][metric]) for name in PREDICTIONS)) for metric, label in METRICS.items()
    ]
    return page.table(["metric", *PREDICTIONS.values()], rows)


def _notes(evaluation: Evaluation) -> list[str]:
    """What the reader should know of single images."""
    constant = [scored.image for scored in evaluation.scores if scored.constant]
    undivided = [scored.image for scored in evaluation.scores if scored.human_split_half is None]
    notes = exclusion_notes("the data set", evaluation.left_out, {})
    if constant:
        notes.append(f"The teacher's map is the same everywhere, which scores like chance: {_listed(constant)}")
    if undivided:
        notes.append(f"Fewer than 2 subjects, so no human split-half: {_listed(undivided)}")
    return notes


def _listed(names: Sequence[str]) -> str:
    return f"{len(names):,} images ({join_names(names, NAMED)})" if len(names) > 1 else names[0]


def _histograms(evaluation: Evaluation) -> list[Html]:
    """Of the teacher and of people, on one scale."""
    scores = {name: evaluation.of(name, "cc") for name in ("teacher", "human_split_half")}
    lowest = np.floor(np.nanmin(np.concatenate(list(scores.values()))) / BIN).clip(max=0)
    edges = (np.arange(lowest, round(1 / BIN) + 1) * BIN).round(2)
    return [
        page.histogram(PREDICTIONS[name], values[~np.isnan(values)].clip(max=1).tolist(), edges)
        for name, values in scores.items()
        if not np.isnan(values).all()
    ]


def _comparison(image: FixatedImage, scores: ImageScores, teacher: Predictor, device: torch.device) -> Html:
    """A photograph under people's map, beside the same under the teacher's, and its scores."""
    size = image.width, image.height
    photograph = Image.fromarray(image.pixels().permute(1, 2, 0).numpy())
    maps = image.attention_map(image.height, image.width), predict_map(teacher, image, device)
    greys = [page.normalize_map(attention.cpu().numpy()) for attention in maps]
    pair = [page.attention_picture(photograph, grey, np.empty((0, 3)), size) for grey in greys]
    details = [f"{METRICS[metric].split(' (')[0]} {value:.2f}" for metric, value in scores.teacher.items()]
    if scores.human_split_half:
        details.append(f"people's halves: CC {scores.human_split_half['cc']:.2f}")
    return page.figure(page.element("div", *pair, class_="pair"), page.breakable(image.name), " · ".join(details))
