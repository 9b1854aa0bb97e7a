from pathlib import Path

import pytest

from common.errors import UserError
from common.settings import load_settings
from trainer.evaluate import suites
from trainer.evaluate.config import EvaluateSettings
from trainer.evaluate.suite import Suite
from trainer.evaluate.suites import load_headlines, load_suites, suite_names

FOLDER = Path(suites.__file__).parent
NEW_SUITE = """
from common import page
from trainer.evaluate.suite import Findings, Headline, Suite


def run(context):
    return Findings({model.name: {"channels": model.channels} for model in context.models}, [], [])


SUITE = Suite(
    position=1000,
    inputs=("val",),
    image_sets=lambda context: [],
    run=run,
    section=lambda findings: page.section("Width"),
    headlines=(Headline("channels", "channels", ("channels",)),),
)
"""


def test_suites_are_named_after_their_files():
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert suite_names() == sorted(name.replace("_", "-") for name in files)
    assert set(load_suites()) == set(suite_names()) >= {"linear", "imagenet-c", "retrieval", "alignment"}
    assert all(isinstance(suite, Suite) for suite in load_suites().values())


def test_suites_have_distinct_positions_and_are_loaded_in_this_order():
    positions = [suite.position for suite in load_suites().values()]
    assert positions == sorted(set(positions))


def test_inputs_and_options_of_suites_are_settings():
    for suite in load_suites().values():
        assert suite.inputs
        names = {*suite.inputs, *suite.options, *(suite.default_inputs or ())}
        assert names <= EvaluateSettings.model_fields.keys()
        assert set(suite.default_inputs or ()) <= set(suite.inputs)


def test_headlines_have_distinct_names():
    names = [headline.name for headline in load_headlines()]
    assert len(names) == len(set(names)) > 0
    assert set(load_headlines().values()) == set(suite_names())


def test_unknown_suite_is_refused_with_the_names_of_all():
    names = ", ".join(suite_names())
    with pytest.raises(UserError, match=rf"^--suite: expected some of {names}, found \['linear', 'x'\]$"):
        load_settings(EvaluateSettings, ["checkpoint", "--suite=linear,x"])


def test_new_file_in_the_folder_is_a_suite(tmp_path, monkeypatch):
    (tmp_path / "feature_width.py").write_text(NEW_SUITE)
    monkeypatch.setattr(suites, "__path__", [*suites.__path__, str(tmp_path)])
    assert "feature-width" in suite_names()
    assert list(load_suites())[-1] == "feature-width"
    settings = load_settings(EvaluateSettings, ["checkpoint", "--suite=feature-width", "--val=folder"])
    settings.check()
    assert list(settings.suites()) == ["feature-width"]
