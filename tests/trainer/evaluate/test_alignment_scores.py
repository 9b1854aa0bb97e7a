import math

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.fixations import open_fixations
from common.saliency import score_map
from tests.support.fixation_data import random_fixations, write_fixation_data
from trainer.evaluate.alignment_scores import compare_models, parse_comparisons, read_scores, summarize_scores


def scores(values, data="csv:x"):
    return {(data, f"{number}.jpg"): {"cc": value, "nss": 2 * value} for number, value in enumerate(values)}


def made_up(seed, mean=0.3, count=40):
    return np.random.default_rng(seed).normal(mean, 0.2, count)


def test_an_images_cc_is_pearsons_over_the_pixels_of_peoples_map(tmp_path):
    image = open_fixations(write_fixation_data(tmp_path, random_fixations(images=1))).images[0]
    truth = image.attention_map(image.height, image.width)
    prediction = torch.rand(image.height, image.width, generator=torch.Generator().manual_seed(0))
    found = score_map(prediction, truth, image.fixations)
    assert found["cc"] == pytest.approx(np.corrcoef(prediction.flatten(), truth.flatten())[0, 1], abs=1e-5)
    pixels = (image.fixations * (image.width, image.height)).astype(int)
    standard = (prediction.numpy() - prediction.numpy().mean()) / prediction.numpy().std()
    assert found["nss"] == pytest.approx(standard[pixels[:, 1], pixels[:, 0]].mean(), abs=1e-4)
    assert score_map(truth, truth, image.fixations)["cc"] == pytest.approx(1, abs=1e-5)


def test_the_test_against_zero_is_students():
    values = made_up(1)
    found = summarize_scores(scores(values), seed=0)
    t = values.mean() / (values.std(ddof=1) / math.sqrt(len(values)))
    assert (found["cc"], found["n"]) == (pytest.approx(values.mean()), 40)
    assert found["t"] == pytest.approx(t)
    assert 0 < found["p"] < 1e-6
    assert found["ci95"][0] < found["cc"] < found["ci95"][1]
    assert found["nss"] == pytest.approx(2 * values.mean())
    assert found["kld"] is None


def test_two_models_are_compared_by_welchs_and_by_a_paired_test():
    one, other = made_up(1), made_up(2, mean=0.35, count=50)
    found = compare_models(scores(one), scores(other))
    spread = one.var(ddof=1) / 40 + other.var(ddof=1) / 50
    assert found["welch"]["t"] == pytest.approx((one.mean() - other.mean()) / math.sqrt(spread))
    differences = one - other[:40]
    assert found["paired"]["t"] == pytest.approx(differences.mean() / (differences.std(ddof=1) / math.sqrt(40)))
    assert found["paired"]["n"] == 40
    assert found["difference"] == pytest.approx(one.mean() - other.mean())


def test_what_cannot_be_tested_is_none():
    found = summarize_scores(scores([0.5]), seed=0)
    assert (found["t"], found["p"], found["n"]) == (None, None, 1)
    assert compare_models(scores([0.5]), scores([0.25]))["paired"] is None
    same = compare_models(scores([0.5, 0.6]), scores([0.5, 0.6]))
    assert same["paired"] == {"n": 2, "t": None, "p": None}


def test_several_data_sets_are_summed_up_together_and_each(tmp_path):
    found = summarize_scores(scores([0.2, 0.4], "csv:a") | scores([0.9, 0.7, 0.8], "csv:b"), seed=0)
    assert found["n"] == 5
    assert found["data"]["csv:a"]["cc"] == pytest.approx(0.3)
    assert found["data"]["csv:b"]["cc"] == pytest.approx(0.8)


def test_a_table_of_the_teachers_scores_is_matched_by_the_images_names(tmp_path):
    path = tmp_path / "per_image.csv"
    path.write_text("data,image,cc,kld\ncsv:y,a.jpg,0.5,\ncsv:y,b.jpg,0.25,1.5\ncsv:y,z.jpg,1,1\n")
    found = read_scores("teacher", path, [("csv:x", "a.jpg"), ("csv:x", "b.jpg"), ("csv:x", "c.jpg")])
    assert list(found) == [("csv:x", "a.jpg"), ("csv:x", "b.jpg")]
    assert found["csv:x", "b.jpg"] == {"cc": 0.25, "kld": 1.5}
    assert math.isnan(found["csv:x", "a.jpg"]["kld"])


def test_rows_of_the_data_set_itself_come_before_others_of_the_same_name(tmp_path):
    path = tmp_path / "per_image.csv"
    path.write_text("data,image,cc\ncsv:x,a.jpg,0.5\ncsv:y,a.jpg,0.1\n")
    assert read_scores("teacher", path, [("csv:x", "a.jpg")])["csv:x", "a.jpg"]["cc"] == 0.5
    with pytest.raises(UserError, match="names images of csv:z more than once"):
        read_scores("teacher", path, [("csv:z", "a.jpg")])
    with pytest.raises(UserError, match="holds none of the images of --human-data"):  # other people, other maps
        read_scores("teacher", path, [("osie-eye:x", "a.jpg")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as a table"),
        ("name,score\na,1\n", "with the columns image and cc, found name, score"),
        ("image,cc\n", "found nothing"),
        ("image,cc\nz.jpg,1\n", r"holds none of the images of --human-data, such as a\.jpg"),
        ("image,cc\na.jpg,high\n", r"a\.jpg: expected a number as cc, found 'high'"),
        ("image,cc\na.jpg,nan\n", r"a\.jpg: expected a number as cc, found 'nan'"),
        ("image,cc,kld\na.jpg,0.5,inf\n", r"a\.jpg: expected a number as kld, found 'inf'"),
        ("image,cc\na.jpg,\n", r"a\.jpg: expected a number as cc, found nothing"),
    ],
)
def test_a_table_that_is_none_is_refused(content, message, tmp_path):
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
