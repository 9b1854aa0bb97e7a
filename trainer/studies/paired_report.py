"""Paired comparisons as text: a Markdown table, and sentences on what is missing from it."""

from collections.abc import Sequence

from common.text import join_names, pluralize
from trainer.studies.paired import MAX_SEEDS, Comparison

EXPLANATION = (
    "Differences are paired by seed, because runs of the same seed share initialization and batches: mean with its "
    "95 % t interval, p of the paired t-test, and p with Holm's correction for the comparisons of one table. Seeds "
    "needed: with which a difference of this size is found with a power of 80 % (two-sided, 5 %, without correction), "
    "if the differences vary as they do here."
)
COLUMNS = ("recipe", "baseline", "seeds", "difference", "95 % interval", "p", "p (Holm)", "seeds needed")


def format_comparisons(comparisons: Sequence[Comparison], digits: int = 2) -> str:
    """Return comparisons as a Markdown table with its explanation and notes; empty without comparisons."""
    if not comparisons:
        return ""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---|--:|--:|--:|--:|--:|--:|"]
    lines += [f"| {' | '.join(cells)} |" for cells in comparison_rows(comparisons, digits)]
    return "\n".join([*lines, "", EXPLANATION, *(f"- {note}" for note in missing_notes(comparisons))]) + "\n"


def comparison_rows(comparisons: Sequence[Comparison], digits: int = 2) -> list[tuple[str, ...]]:
    """Return the cells of each comparison, in the order of `COLUMNS`."""
    return [_format_row(comparison, digits) for comparison in comparisons]


def _format_row(comparison: Comparison, digits: int) -> tuple[str, ...]:
    names = (comparison.recipe, comparison.baseline, str(len(comparison.seeds)))
    if comparison.difference is None:
        return *names, "", "", "", "", ""
    difference = f"{comparison.difference:+.{digits}f}"
    if comparison.ci95 is None or comparison.p is None or comparison.p_holm is None:
        return *names, difference, "", "", "", ""
    low, high = comparison.ci95
    needed = f"> {MAX_SEEDS:,}" if comparison.needed is None else f"{comparison.needed:,}"
    interval = f"[{low:+.{digits}f}, {high:+.{digits}f}]"
    return *names, difference, interval, f"{comparison.p:.2g}", f"{comparison.p_holm:.2g}", needed


def missing_notes(comparisons: Sequence[Comparison]) -> list[str]:
    """Return sentences that name seeds without a partner, and comparisons without an interval."""
    notes = []
    for comparison in comparisons:
        pair = f"{comparison.recipe} - {comparison.baseline}"
        if comparison.seeds and comparison.missing:
            seeds = join_names([str(seed) for seed in comparison.missing], most=10)
            count = pluralize(len(comparison.missing), "seed")
            notes.append(f"{pair}: {count} that only one of them has excluded: {seeds}.")
        if not comparison.seeds:
            notes.append(f"{pair}: no seed that both have, so nothing can be compared.")
        elif len(comparison.seeds) == 1:
            notes.append(f"{pair}: one seed has no interval and no p; run two or more.")
        elif comparison.ci95 is None:
            notes.append(f"{pair}: the differences of all seeds are equal, so there is no interval and no p.")
    return notes
