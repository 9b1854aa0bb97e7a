"""Paired comparisons of training runs: recipes that share initialization and batches by seed are compared by seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

LEVEL = 0.05  # of two-sided tests; the intervals are those of 1 - LEVEL
POWER = 0.8
MAX_SEEDS = 1000  # the largest number that `seeds_needed` considers

Figures = Mapping[str, Mapping[int, float]]  # by recipe and seed


@dataclass(frozen=True)
class Comparison:
    """Paired differences between a recipe and its baseline.

    Attributes:
        recipe: name of the recipe.
        baseline: name of the recipe that it is compared with.
        seeds: seeds that both have, which are compared.
        missing: seeds that only one of them has, which are not.
        difference: mean of the recipe's figures minus the baseline's; None without a common seed.
        ci95: 95 % t interval of the mean difference; None for fewer than two seeds, or if all differences are equal.
        p: two-sided p of the paired t-test; None like the interval.
        p_holm: p with Holm's correction for all comparisons that are made together; None like `p`.
        needed: number of seeds at which a paired t-test finds a difference of this size, with this standard deviation
            of the differences, with a power of 80 %; None like `p`, or if it exceeds `MAX_SEEDS`.
    """

    recipe: str
    baseline: str
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    difference: float | None
    ci95: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    needed: int | None = None


def compare_recipes(figures: Figures, pairs: Iterable[tuple[str, str]]) -> list[Comparison]:
    """Compare recipes with their baselines, and correct p for the number of these comparisons (Holm 1979).

    Args:
        figures: a figure of each run, such as its accuracy, by recipe and seed.
        pairs: names of a recipe and of its baseline.
    """
    comparisons = [_compare(recipe, baseline, figures[recipe], figures[baseline]) for recipe, baseline in pairs]
    corrected = iter(holm([comparison.p for comparison in comparisons if comparison.p is not None]))
    return [
        comparison if comparison.p is None else replace(comparison, p_holm=next(corrected))
        for comparison in comparisons
    ]


def _compare(recipe: str, baseline: str, first: Mapping[int, float], second: Mapping[int, float]) -> Comparison:
    seeds = tuple(sorted(first.keys() & second.keys()))
    missing = tuple(sorted(first.keys() ^ second.keys()))
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    mean = float(differences.mean()) if seeds else None
    comparison = Comparison(recipe, baseline, seeds, missing, mean)
    if len(seeds) < 2 or np.allclose(differences, differences[0], rtol=1e-9, atol=1e-12):
        return comparison
    test = stats.ttest_1samp(differences, 0)
    low, high = test.confidence_interval(1 - LEVEL)
    needed = seeds_needed(float(differences.mean()), float(differences.std(ddof=1)))
    return replace(comparison, ci95=(float(low), float(high)), p=float(test.pvalue), needed=needed)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values with Holm's step-down correction for their number, in the same order."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def seeds_needed(difference: float, deviation: float) -> int | None:
    """Return the smallest number of seeds at which a two-sided paired t-test at 5 % has a power of 80 %.

    Args:
        difference: true mean of the differences by seed.
        deviation: their standard deviation, above 0. That of one recipe's figures over seeds is another one: for two
            independent recipes it has to be multiplied by the square root of 2.

    Returns None if more than `MAX_SEEDS` are needed.
    """
    seeds = np.arange(2, MAX_SEEDS + 1)
    threshold = stats.t.isf(LEVEL / 2, seeds - 1)
    # a significant difference of the wrong sign is not counted: at this power its probability is negligible
    power = stats.nct.sf(threshold, seeds - 1, abs(difference) / deviation * np.sqrt(seeds))
    enough = seeds[power >= POWER]
    return int(enough[0]) if len(enough) else None


def default_pairs(recipes: Sequence[str]) -> list[tuple[str, str]]:
    """Pair each recipe with the shortest other one whose name its own begins with.

    So `contrastive-attn-teacher` is paired with `contrastive`, and `supervised-attn-teacher` with `supervised`. Recipes
    without such a baseline are in no pair.
    """
    pairs = []
    for recipe in recipes:
        baselines = [other for other in recipes if recipe.startswith(f"{other}-")]
        if baselines:
            pairs.append((recipe, min(baselines, key=len)))
    return pairs
