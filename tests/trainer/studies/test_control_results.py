"""Result files of the study of controls: reading, and refusing what does not belong together."""

import shutil

import pytest

from common.errors import UserError
from tests.support.study import make_result, write_results
from trainer.studies.control_results import OUTCOMES, PRIMARY, Outcome, read_results


def test_results_are_read_as_they_were_written(tmp_path):
    result = make_result("contrastive", 3, 0.5, 0.25)
    write_results(tmp_path, result)
    (tmp_path / "study.csv").write_text("not a result")
    assert read_results(str(tmp_path)) == {"contrastive-seed3.json": result}


def test_figures_that_were_not_measured_are_none():
    result = make_result("contrastive", 0, 0.5, 0.25)
    figures = {outcome.name: result.figure(outcome) for outcome in OUTCOMES}
    assert figures["offline_top1"] == 50
    assert figures["cc"] == 0.25
    assert figures["nss"] is figures["auc_shuffled"] is figures["corrupted_top1"] is None
    assert make_result("contrastive", 0, 0.5).figure(Outcome("cc", "", "alignment", ("cc",))) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"epochs": 1}}, r"b-seed1\.json differs from a-seed0\.json: epochs is 1, not 30"),
        ({"data": {"checksum": "other", "samples": 50_000, "classes": 100}}, "data checksum is 'other', not 'c'"),
    ],
)
def test_results_of_other_settings_or_data_are_refused_by_name(tmp_path, change, message):
    other = make_result("b", 1, 0.5)
    changed = {name: getattr(other, name) | value for name, value in change.items()}
    write_results(tmp_path, make_result("a", 0, 0.5), other.model_copy(update=changed))
    with pytest.raises(UserError, match=message):
        read_results(str(tmp_path))


def test_results_measured_on_other_images_are_refused(tmp_path):
    other = make_result("b", 1, 0.5)
    other.measured["linear"].of["val"] = "z"
    write_results(tmp_path, make_result("a", 0, 0.5), other)
    with pytest.raises(UserError, match="linear val is 'z', not 'a'"):
        read_results(str(tmp_path))


def test_results_measured_on_other_images_are_refused_if_the_first_result_lacks_the_suite(tmp_path):
    results = [make_result("a", seed, 0.5, None if seed == 0 else 0.3) for seed in range(3)]
    results[2].measured["alignment"].of["people"] = "z"
    write_results(tmp_path, *results)
    with pytest.raises(UserError, match=r"a-seed2\.json differs from a-seed1\.json: alignment people is 'z', not 'b'"):
        read_results(str(tmp_path))


def test_results_may_have_different_suites(tmp_path):
    write_results(tmp_path, make_result("a", 0, 0.5, 0.3), make_result("a", 1, 0.5))
    assert len(read_results(str(tmp_path))) == 2


def test_two_results_of_one_run_are_refused(tmp_path):
    write_results(tmp_path, make_result("a", 0, 0.5))
    shutil.copy(tmp_path / "a-seed0.json", tmp_path / "copy.json")
    with pytest.raises(UserError, match=r"a-seed0\.json and copy\.json are results of the same run"):
        read_results(str(tmp_path))


@pytest.mark.parametrize("content", ["[]", "{}", "no json", '{"format": 2}'])
def test_file_that_is_no_result_is_named(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json: expected a result file of trainer\.studies\.controls"):
        read_results(str(tmp_path))


def test_folder_without_results_raises_an_error(tmp_path):
    with pytest.raises(UserError, match=r"expected result files of trainer\.studies\.controls"):
        read_results(str(tmp_path))


def test_primary_outcome_is_the_offline_probe():
    assert PRIMARY.path == ("offline", "top1")
