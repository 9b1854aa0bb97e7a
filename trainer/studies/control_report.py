"""The summary of the study of controls: the decision, means and paired comparisons, as Markdown, CSV and HTML."""

import csv
import io
from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from common import page
from common.intervals import format_mean, standard_error
from common.page import Html
from common.storage import open_storage
from common.text import pluralize
from trainer.studies.config import BASELINE, CONTROLS, TREATMENT
from trainer.studies.control_decision import Decision, decide, list_deviations, read_plan
from trainer.studies.control_results import OUTCOMES, PRIMARY, Outcome, Results
from trainer.studies.paired import Comparison, Figures, compare_recipes
from trainer.studies.paired_report import COLUMNS, EXPLANATION, comparison_rows, missing_notes

MARKDOWN, CSV, HTML = "study.md", "study.csv", "study.html"
TITLE = "Does attention help because it is human?"


class Block(NamedTuple):
    """A part of the summary: a heading, sentences and, unless it has no rows, a table."""

    title: str
    sentences: Sequence[str]
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def save_summary(results: Results, output: str) -> str:
    """Write study.md, study.csv and study.html to a folder, local or in S3, and return the Markdown.

    `results` are those that `read_results` returns. Raises UserError if a file cannot be written.
    """
    figures = {outcome: collect_figures(results, outcome) for outcome in OUTCOMES}
    blocks = _make_blocks(results, figures)
    text = f"# {TITLE}\n\n" + "\n".join(map(_block_to_markdown, blocks))
    storage = open_storage(output)
    storage.replace(MARKDOWN, text.encode())
    storage.replace(CSV, format_runs(results).encode())
    storage.replace(HTML, _make_page(blocks, figures[PRIMARY]).encode())
    return text


def collect_figures(results: Results, outcome: Outcome) -> dict[str, dict[int, float]]:
    """Return an outcome by recipe and seed, the study's arms first. Runs without it are left out."""
    order = {arm: number for number, arm in enumerate((BASELINE, TREATMENT, *CONTROLS))}
    figures: dict[str, dict[int, float]] = {}
    for result in sorted(
        results.values(), key=lambda result: (order.get(result.recipe, 9), result.recipe, result.seed)
    ):
        if (value := result.figure(outcome)) is not None:
            figures.setdefault(result.recipe, {})[result.seed] = value
    return figures


def format_runs(results: Results) -> str:
    """Return a CSV table with a row for each run and a column for each outcome."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["recipe", "seed", *(outcome.name for outcome in OUTCOMES), "file"])
    for name, result in results.items():
        values = [result.figure(outcome) for outcome in OUTCOMES]
        cells = ["" if value is None else f"{value:.6g}" for value in values]
        writer.writerow([result.recipe, result.seed, *cells, name])
    return file.getvalue()


def _make_blocks(results: Results, figures: dict[Outcome, dict[str, dict[int, float]]]) -> list[Block]:
    decision = decide(figures[PRIMARY], read_plan()["seeds"])
    blocks = [
        _decision_block(results, decision),
        _means_block(results, figures),
        _comparisons_block(f"Primary outcome: {PRIMARY.title}, planned seeds", decision.comparisons, PRIMARY),
    ]
    for outcome, by_recipe in figures.items():
        others = [recipe for recipe in by_recipe if recipe != TREATMENT]
        if outcome.compared and TREATMENT in by_recipe and others:
            comparisons = compare_recipes(by_recipe, [(TREATMENT, other) for other in others])
            blocks.append(_comparisons_block(f"Secondary: {outcome.title}, all seeds", comparisons, outcome))
    if BASELINE in figures[PRIMARY]:
        pairs = [(recipe, BASELINE) for recipe in figures[PRIMARY] if recipe != BASELINE]
        comparisons = compare_recipes(figures[PRIMARY], pairs)
        blocks.append(_comparisons_block(f"Secondary: {PRIMARY.title}, against {BASELINE}", comparisons, PRIMARY))
    return blocks


def _decision_block(results: Results, decision: Decision) -> Block:
    first = next(iter(results.values()))
    settings, data = first.settings, first.data
    measured_on = {suite: found.of for result in results.values() for suite, found in result.measured.items()}
    deviations = list_deviations(settings, data, measured_on)
    sentences = [f"**{decision.verdict}**: {decision.reason}"]
    if deviations:
        sentences.append(
            f"These results are exploratory, because they deviate from the planned study: {', '.join(deviations)}."
        )
    devices = sorted({result.versions.get("device", "unknown") for result in results.values()})
    sentences.append(
        f"{pluralize(len(results), 'run')} of a {settings['backbone']} at {settings['image_size']} px, "
        f"{pluralize(settings['epochs'], 'epoch')} in batches of {settings['batch_size']:,}, on {data['samples']:,} "
        f"images of {data['classes']:,} classes; measured on {', '.join(devices)}."
    )
    return Block("Decision", sentences)


def _means_block(results: Results, figures: dict[Outcome, dict[str, dict[int, float]]]) -> Block:
    measured = [outcome for outcome in OUTCOMES if figures[outcome]]
    recipes = dict.fromkeys(recipe for outcome in measured for recipe in figures[outcome])
    rows = [
        [recipe, *(_format_cell(figures[outcome].get(recipe), outcome) for outcome in measured)] for recipe in recipes
    ]
    absent = [outcome.title for outcome in OUTCOMES if outcome not in measured]
    sentences = [f"Mean ± standard error over seeds, and the number of seeds in brackets. {EXPLANATION}"]
    if absent:
        sentences.append(f"Not measured: {', '.join(absent)}.")
    return Block("Means", sentences, ["recipe", *(outcome.title for outcome in measured)], rows)


def _format_cell(by_seed: dict[int, float] | None, outcome: Outcome) -> str:
    if not by_seed:
        return ""
    values = list(by_seed.values())
    return f"{format_mean(mean(values), standard_error(values), outcome.digits)} ({len(values)})"


def _comparisons_block(title: str, comparisons: Sequence[Comparison], outcome: Outcome) -> Block:
    return Block(title, missing_notes(comparisons), COLUMNS, comparison_rows(comparisons, outcome.digits))


def _block_to_markdown(block: Block) -> str:
    lines = [f"## {block.title}", "", *(line for sentence in block.sentences for line in (sentence, ""))]
    if block.rows:
        lines += [f"| {' | '.join(cells)} |" for cells in (block.columns, ["---"] * len(block.columns), *block.rows)]
        lines.append("")
    return "\n".join(lines)


def _make_page(blocks: Sequence[Block], primary: Figures) -> Html:
    sections = [
        page.section(
            block.title,
            *(page.paragraph(sentence.replace("**", "")) for sentence in block.sentences),
            *([page.table(block.columns, block.rows)] if block.rows else []),
        )
        for block in blocks
    ]
    points = {
        recipe: sorted((float(seed), value) for seed, value in by_seed.items()) for recipe, by_seed in primary.items()
    }
    chart = page.figure(page.line_chart(points, f"{PRIMARY.title} by seed", "seed"), PRIMARY.title, "by seed")
    return page.document(
        TITLE,
        "Study of controls: contrastive training with human and with other attention targets.",
        *sections,
        page.section("Runs", page.grid([chart], wide=True)),
    )
