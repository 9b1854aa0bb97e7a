"""The frame of the report page: headline figures, checkpoints, unreadable images, and the suites' sections."""

from collections.abc import Mapping, Sequence

from common import page
from common.page import Html
from common.text import join_names, pluralize
from trainer.evaluate import glance
from trainer.evaluate.suite import Context, Findings, Headline, Row, Suite


def report_page(
    context: Context,
    suites: Mapping[str, Suite],
    findings: Mapping[str, Findings],
    headlines: Mapping[Headline, str],
    headline_rows: Sequence[Row],
    unreadable: Mapping[str, Mapping[str, str]],
) -> Html:
    """Return the whole page, self-contained.

    Args:
        context: settings and models.
        suites: the suites that ran, in the order of their sections.
        findings: what they found, by name.
        headlines: all headline figures, with the names of their suites.
        headline_rows: rows of glance.csv.
        unreadable: reasons why images cannot be read, by set and image.
    """
    return page.document(
        "Evaluation",
        "Checkpoints measured and compared with each other. results.json and the tables next to this page hold every "
        "figure.",
        glance.section(headlines, headline_rows),
        _checkpoints(context),
        page.notes(_unreadable_notes(unreadable)),
        *(suite.section(findings[name]) for name, suite in suites.items()),
    )


def _checkpoints(context: Context) -> Html:
    rows = [
        (
            model.name,
            model.training["recipe"] or "weights file",
            model.training["backbone"],
            context.store.image_size(model),
            "" if model.training["step"] is None else model.training["step"],
            page.breakable(model.location),
            model.sha256[:12],
        )
        for model in context.models
    ]
    columns = ["model", "recipe", "backbone", "image side", "steps", "checkpoint", "sha256"]
    return page.section("Checkpoints", page.table(columns, rows))


def _unreadable_notes(unreadable: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a note per list of unreadable images, which many corruptions of the same images may share."""
    sets_by_images: dict[frozenset[str], list[str]] = {}
    for name, reasons in unreadable.items():
        sets_by_images.setdefault(frozenset(reasons), []).append(name)
    notes = []
    for images, names in sets_by_images.items():
        reasons = unreadable[names[0]]
        listed = join_names([f"{image} ({reason})" for image, reason in reasons.items()])
        notes.append(f"{join_names(names, 3)}: {pluralize(len(images), 'unreadable image')} excluded: {listed}")
    return notes
