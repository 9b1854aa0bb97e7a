"""Paired comparisons: against scipy, closed testing, and published tables of sample sizes."""

import itertools

import numpy as np
import pytest
from scipy import integrate, stats

from trainer.studies.paired import compare_recipes, default_pairs, holm, seeds_needed
from trainer.studies.paired_report import comparison_rows, format_comparisons

BASELINE = {0: 60.0, 1: 61.5, 2: 59.0, 3: 60.4}


def by_seed(*values):
    return dict(enumerate(values))


def test_differences_are_tested_by_seed_as_by_scipy():
    guided = by_seed(60.9, 61.8, 59.8, 60.6)
    [comparison] = compare_recipes({"guided": guided, "plain": BASELINE}, [("guided", "plain")])
    test = stats.ttest_rel(list(guided.values()), list(BASELINE.values()))
    assert comparison.p == pytest.approx(test.pvalue)
    assert comparison.ci95 == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert comparison.difference == pytest.approx(0.55)
    assert comparison.p_holm == comparison.p
    assert comparison.needed == seeds_needed(0.55, np.std([0.9, 0.3, 0.8, 0.2], ddof=1)) == 6
    assert comparison.seeds == (0, 1, 2, 3)
    unpaired = stats.ttest_ind(list(guided.values()), list(BASELINE.values()))
    assert comparison.p < 0.1 < unpaired.pvalue


def test_only_common_seeds_are_compared_and_others_are_named():
    figures = {"guided": {5: 3.0, 1: 62.5, 3: 61.0}, "plain": BASELINE}
    [comparison] = compare_recipes(figures, [("guided", "plain")])
    assert comparison.seeds == (1, 3)
    assert comparison.missing == (0, 2, 5)
    assert comparison.difference == pytest.approx(0.8)
    assert "guided - plain: 3 seeds that only one of them has excluded: 0, 2, 5." in format_comparisons([comparison])


@pytest.mark.parametrize(
    ("guided", "note"),
    [
        (by_seed(61.0), "one seed has no interval"),
        ({7: 1.0}, "no seed that both have"),
        (by_seed(60.7, 62.2, 59.7), "the differences of all seeds are equal"),
    ],
)
def test_what_cannot_be_tested_has_no_interval_and_says_so(guided, note):
    [comparison] = compare_recipes({"guided": guided, "plain": BASELINE}, [("guided", "plain")])
    assert comparison.ci95 is comparison.p is comparison.p_holm is comparison.needed is None
    assert note in format_comparisons([comparison])
    assert "nan" not in format_comparisons([comparison])


def test_untested_comparisons_do_not_count_for_the_correction():
    figures = {"a": by_seed(61.0, 62.1, 60.2, 61.0), "b": by_seed(61.0), "plain": BASELINE}
    first, second = compare_recipes(figures, [("b", "plain"), ("a", "plain")])
    assert first.p_holm is None
    assert second.p_holm == second.p


@pytest.mark.parametrize("seed", range(20))
def test_correction_is_that_of_closed_testing(seed):
    """Holm's corrected p is the largest Bonferroni p of all sets of hypotheses that contain the hypothesis."""
    p_values = np.random.default_rng(seed).uniform(0, 0.2, 5).round(2).tolist()
    sets = [members for size in range(1, 6) for members in itertools.combinations(range(5), size)]
    bonferroni = {members: min(1, len(members) * min(p_values[index] for index in members)) for members in sets}
    expected = [max(p for members, p in bonferroni.items() if index in members) for index in range(5)]
    assert holm(p_values) == pytest.approx(expected)


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_needed_seeds_are_the_published_sample_sizes_of_the_paired_t_test(effect, seeds):
    """G*Power's, two-sided, 5 %, power 80 %."""
    assert seeds_needed(-effect * 3, 3) == seeds


def power_of_paired_test(effect, seeds):
    """Integrate over the distribution of the standard deviation, without the noncentral t distribution."""
    threshold = stats.t.isf(0.025, seeds - 1)

    def density(deviation):
        squared = (seeds - 1) * deviation**2
        above = stats.norm.sf(threshold * deviation - effect * np.sqrt(seeds))
        return above * stats.chi2.pdf(squared, seeds - 1) * 2 * (seeds - 1) * deviation

    return integrate.quad(density, 0, 10)[0]


@pytest.mark.parametrize("deviation", [0.25, 0.3, 0.369, 0.61, 1.2])
def test_needed_seeds_are_the_first_with_a_power_of_80_percent(deviation):
    seeds = seeds_needed(0.62, deviation)
    assert power_of_paired_test(0.62 / deviation, seeds) >= 0.8
    assert power_of_paired_test(0.62 / deviation, seeds - 1) < 0.8


def test_effect_that_needs_more_than_a_thousand_seeds_is_reported_as_such():
    assert seeds_needed(0.0, 1.0) is seeds_needed(0.01, 1.0) is None
    figures = {"guided": by_seed(60.0, 61.6, 59.0, 60.3001), "plain": BASELINE}
    assert comparison_rows(compare_recipes(figures, [("guided", "plain")]))[0][-1] == "> 1,000"


def test_recipes_are_compared_with_the_one_that_their_name_begins_with():
    recipes = ["supervised-attn-teacher", "contrastive-attn", "contrastive-attn-teacher", "contrastive", "supervised"]
    assert default_pairs(recipes) == [
        ("supervised-attn-teacher", "supervised"),
        ("contrastive-attn", "contrastive"),
        ("contrastive-attn-teacher", "contrastive"),
    ]
    assert default_pairs(["contrastive", "contrastiveness", "supervised"]) == []
