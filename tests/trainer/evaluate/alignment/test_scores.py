import math

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.fixations import open_fixations
from common.saliency import score_map
from tests.support.data.fixation_data import random_fixations, write_fixation_data
from trainer.evaluate.alignment.scores import compare_models, parse_comparisons, read_scores, summarize_model


def make_scores(values, data="csv:x"):
    """Return scores of images of a data set, given their CC."""
    return {(data, f"{number}.jpg"): {"cc": value, "nss": 2 * value} for number, value in enumerate(values)}


def random_cc(seed, mean=0.3, count=40):
    return np.random.default_rng(seed).normal(mean, 0.2, count)


def test_cc_is_pearsons_correlation_over_the_pixels_of_the_human_attention_map(tmp_path):
    image = open_fixations(write_fixation_data(tmp_path, random_fixations(images=1))).images[0]
    human_map = image.attention_map(image.height, image.width)
    predicted = torch.rand(image.height, image.width, generator=torch.Generator().manual_seed(0))
    scores = score_map(predicted, human_map, image.fixations)
    assert scores["cc"] == pytest.approx(np.corrcoef(predicted.flatten(), human_map.flatten())[0, 1], abs=1e-5)
    pixels = (image.fixations * (image.width, image.height)).astype(int)
    standardized = (predicted.numpy() - predicted.numpy().mean()) / predicted.numpy().std()
    assert scores["nss"] == pytest.approx(standardized[pixels[:, 1], pixels[:, 0]].mean(), abs=1e-4)
    assert score_map(human_map, human_map, image.fixations)["cc"] == pytest.approx(1, abs=1e-5)


def test_cc_is_tested_against_0_with_students_t_test():
    cc = random_cc(1)
    summary = summarize_model(make_scores(cc), seed=0)
    t = cc.mean() / (cc.std(ddof=1) / math.sqrt(len(cc)))
    assert (summary["cc"], summary["n"]) == (pytest.approx(cc.mean()), 40)
    assert summary["t"] == pytest.approx(t)
    assert 0 < summary["p"] < 1e-6
    assert summary["ci95"][0] < summary["cc"] < summary["ci95"][1]
    assert summary["nss"] == pytest.approx(2 * cc.mean())
    assert summary["kld"] is None
    assert summary["cc_permuted"] is summary["cc_center"] is summary["auc_shuffled"] is summary["gain"] is None


def test_two_models_are_compared_with_welchs_and_a_paired_t_test():
    first, second = random_cc(1), random_cc(2, mean=0.35, count=50)
    comparison = compare_models(make_scores(first), make_scores(second))
    variance = first.var(ddof=1) / 40 + second.var(ddof=1) / 50
    assert comparison["welch"]["t"] == pytest.approx((first.mean() - second.mean()) / math.sqrt(variance))
    differences = first - second[:40]
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(40))
    assert comparison["paired"]["t"] == pytest.approx(t)
    assert comparison["paired"]["n"] == 40
    assert comparison["difference"] == pytest.approx(first.mean() - second.mean())


def test_undefined_tests_are_none():
    summary = summarize_model(make_scores([0.5]), seed=0)
    assert (summary["t"], summary["p"], summary["n"]) == (None, None, 1)
    assert compare_models(make_scores([0.5]), make_scores([0.25]))["paired"] is None
    equal = compare_models(make_scores([0.5, 0.6]), make_scores([0.5, 0.6]))
    assert equal["paired"] == {"n": 2, "t": None, "p": None}


def test_data_sets_are_summarized_together_and_separately():
    scores = make_scores([0.2, 0.4], "csv:a") | make_scores([0.9, 0.7, 0.8], "csv:b")
    summary = summarize_model(scores, seed=0)
    assert summary["n"] == 5
    assert summary["data"]["csv:a"]["cc"] == pytest.approx(0.3)
    assert summary["data"]["csv:b"]["cc"] == pytest.approx(0.8)


def test_table_of_scores_is_matched_by_image_name(tmp_path):
    path = tmp_path / "per_image.csv"
    path.write_text("data,image,cc,kld\ncsv:y,a.jpg,0.5,\ncsv:y,b.jpg,0.25,1.5\ncsv:y,z.jpg,1,1\n")
    scores = read_scores("teacher", path, [("csv:x", "a.jpg"), ("csv:x", "b.jpg"), ("csv:x", "c.jpg")])
    assert list(scores) == [("csv:x", "a.jpg"), ("csv:x", "b.jpg")]
    assert scores["csv:x", "b.jpg"] == {"cc": 0.25, "kld": 1.5}
    assert math.isnan(scores["csv:x", "a.jpg"]["kld"])


def test_shuffled_auc_is_read_from_tables_of_earlier_versions(tmp_path):
    path = tmp_path / "per_image.csv"
    path.write_text("data,image,cc,shuffled_auc\ncsv:x,a.jpg,0.5,0.75\n")
    scores = read_scores("teacher", path, [("csv:x", "a.jpg")])
    assert scores["csv:x", "a.jpg"] == {"cc": 0.5, "auc_shuffled": 0.75}


def test_rows_of_the_same_data_set_are_preferred(tmp_path):
    path = tmp_path / "per_image.csv"
    path.write_text("data,image,cc\ncsv:x,a.jpg,0.5\ncsv:y,a.jpg,0.1\n")
    assert read_scores("teacher", path, [("csv:x", "a.jpg")])["csv:x", "a.jpg"]["cc"] == 0.5
    with pytest.raises(UserError, match="names images of csv:z more than once"):
        read_scores("teacher", path, [("csv:z", "a.jpg")])
    with pytest.raises(UserError, match="holds none of the images of --human-data"):  # another format, other recordings
        read_scores("teacher", path, [("osie-eye:x", "a.jpg")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as a table"),
        ("name,score\na,1\n", "with the columns image and cc, found name, score"),
        ("image,cc\n", "with the columns image and cc, found no rows"),
        ("image,cc\nz.jpg,1\n", r"holds none of the images of --human-data, such as a\.jpg"),
        ("image,cc\na.jpg,high\n", r"a\.jpg: expected a number as cc, found 'high'"),
        ("image,cc\na.jpg,nan\n", r"a\.jpg: expected a number as cc, found 'nan'"),
        ("image,cc,kld\na.jpg,0.5,inf\n", r"a\.jpg: expected a number as kld, found 'inf'"),
        ("image,cc\na.jpg,\n", r"a\.jpg: expected a number as cc, found nothing"),
    ],
)
def test_file_that_is_not_such_a_table_is_refused(content, message, tmp_path):
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_scores("teacher", path, [("csv:x", "a.jpg")])


def test_comparisons_are_named_files():
    assert {name: str(path) for name, path in parse_comparisons(["a=b/c=d.csv"]).items()} == {"a": "b/c=d.csv"}
    for wrong in ("teacher", "=x.csv", "a="):
        with pytest.raises(UserError, match=f"--compare {wrong}: expected NAME=FILE"):
            parse_comparisons([wrong])
    with pytest.raises(UserError, match="each name once"):
        parse_comparisons(["a=x", "a=y"])
