import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.settings import Settings, load_settings
from labeler.config import LabelSettings
from trainer.config import TrainSettings
from trainer.studies.config import TableSettings


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.upper().startswith(("LABELER_", "TRAINER_")):
            monkeypatch.delenv(variable)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def load(*arguments: str) -> LabelSettings:
    return load_settings(LabelSettings, list(arguments))


def refusal(*arguments: str) -> str:
    """The one sentence that says what is wrong."""
    with pytest.raises(UserError) as error:
        load(*arguments)
    message = str(error.value)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def test_without_anything_every_setting_has_its_default() -> None:
    settings = load()
    assert type(settings) is LabelSettings
    assert settings.model_dump() == {name: field.default for name, field in LabelSettings.model_fields.items()}


def test_each_source_of_settings_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("map_size: 32\ninclude_images: false\n")
    monkeypatch.setenv("LABELER_SEED", "4")
    settings = load("--config", str(file), "--limit", "5", "--plan-only")
    assert (settings.map_size, settings.include_images, settings.seed) == (32, False, 4)
    assert (settings.limit, settings.plan_only) == (5, True)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [("", 0), ("yaml", 1), ("environment", 2), ("command line", 3), ("yaml, environment", 2), ("yaml, command line", 3),
     ("environment, command line", 3), ("yaml, environment, command line", 3)],
)  # fmt: skip
def test_command_line_is_over_environment_over_file_over_default(
    sources: str, expected: int, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("seed: 1\n" if "yaml" in sources else "")
    if "environment" in sources:
        monkeypatch.setenv("LABELER_SEED", "2")
    assert load("--config", str(file), *(["--seed", "3"] if "command" in sources else [])).seed == expected


def test_the_file_can_be_named_in_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("seed: 5\n")
    monkeypatch.setenv("LABELER_CONFIG", str(file))
    assert load().seed == 5


def test_the_case_of_an_environment_variable_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("labeler_seed", "5")
    assert load().seed == 5


def test_the_file_can_be_named_in_the_environment_in_lower_case(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("seed: 5\n")
    monkeypatch.setenv("labeler_config", str(file))
    assert load().seed == 5


def test_a_file_on_the_command_line_is_over_one_in_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("seed: 5\n")
    monkeypatch.setenv("LABELER_CONFIG", str(file.with_name("absent.yaml")))
    assert load("--config", str(file)).seed == 5


@pytest.mark.parametrize("content", ["", "# nothing but a comment\n", "{}", "---\n"])
def test_an_empty_file_changes_nothing(content: str, file: Path) -> None:
    file.write_text(content)
    assert load("--config", str(file)).label_config() == load().label_config()


def test_null_in_the_file_is_none_where_that_is_allowed(file: Path) -> None:
    file.write_text("limit: null\n")
    assert load("--config", str(file)).limit is None
    file.write_text("seed: null\n")
    assert "--seed" in refusal("--config", str(file))


@pytest.mark.parametrize(
    ("typed", "near"), [("--sed", "--seed"), ("--sample-per-shard", "--samples-per-shard"), ("--mapsize", "--map-size")]
)
def test_an_unknown_flag_is_refused_with_the_nearest_one(typed: str, near: str) -> None:
    message = refusal(typed, "3")
    assert typed in message
    assert f"did you mean {near}?" in message


@pytest.mark.parametrize("argument", ["--xyzzy", "extra", "--samples", "--no-seed"])
def test_an_unknown_argument_is_refused_by_name(argument: str) -> None:
    assert argument in refusal(argument)


@pytest.mark.parametrize(
    ("key", "near"), [("sed", "--seed"), ("samples-per-shard", "--samples-per-shard"), ("MapSize", "--map-size")]
)
def test_an_unknown_key_in_the_file_is_refused_with_the_nearest_one(key: str, near: str, file: Path) -> None:
    file.write_text(f"{key}: 3\n")
    message = refusal("--config", str(file))
    assert key in message
    assert f"did you mean {near}?" in message


def test_an_unknown_environment_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELER_SED", "3")
    assert "LABELER_SED" in refusal()


def test_an_unknown_environment_variable_is_refused_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELER_SED", "3")
    assert "did you mean" in refusal()


def test_variables_of_other_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELERS", "3")
    monkeypatch.setenv("TRAINER_SEED", "3")
    assert load().seed == 0


@pytest.mark.parametrize(
    ("settings", "other"),
    [
        (LabelSettings, "LABELER_RETRY_WORKERS"),
        (TrainSettings, "TRAINER_TABLE_SEEDS"),
        (TrainSettings, "TRAINER_SEARCH_TRIALS"),
        (TrainSettings, "TRAINER_EVALUATE_QUERIES"),
    ],
)
def test_so_are_those_of_programs_whose_prefix_begins_alike(
    settings: type[Settings], other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(other, "3")
    load_settings(settings, [])


def test_misspelt_variables_of_programs_with_long_prefixes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_TABLE_SEDS", "3")
    with pytest.raises(UserError, match="TRAINER_TABLE_SEDS: there is no such setting; did you mean --seed"):
        load_settings(TableSettings, [])


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--seed", "x"),
        ("--seed", "1.5"),
        ("--seed", "-1"),
        ("--seed", "4294967296"),
        ("--limit", "0"),
        ("--samples-per-shard", "0"),
        ("--map-size", "4"),
        ("--gaze-threshold", "0"),
        ("--gaze-threshold", "1.1"),
        ("--gaze-threshold", "nan"),
        ("--max-bad-fraction", "2"),
        ("--max-bad-fraction", "nan"),
        ("--gpus-per-worker", "-1"),
        ("--workers", "0"),
    ],
)
def test_a_value_of_another_kind_or_range_is_one_sentence_wherever_it_stands(
    flag: str, value: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = flag.removeprefix("--").replace("-", "_")
    file.write_text(f"{name}: {value}\n")
    for message in (refusal(f"{flag}={value}"), refusal("--config", str(file))):
        assert message.startswith(f"{flag}: Input should be ")
        assert value in message
    monkeypatch.setenv(f"LABELER_{name.upper()}", value)
    assert refusal().startswith(f"{flag}: Input should be ")


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    file.write_text("map_size: 4\nbatch: 3\nseed: x\n")
    message = refusal("--config", str(file))
    assert all(name in message for name in ("--map-size", "batch", "--seed", "did you mean --batch-size?"))


def test_a_flag_without_its_value_is_refused() -> None:
    assert "--seed: expected one argument" in refusal("--seed")
    assert "--config expects" in refusal("--config")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "absent.yaml"
    message = refusal("--config", str(path))
    assert f"--config {path}" in message
    assert "No such file" in message
    assert refusal(f"--config={path}") == message


def test_a_folder_as_file_is_refused(tmp_path: Path) -> None:
    assert f"--config {tmp_path}" in refusal("--config", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "found"), [("- seed\n", "['seed']"), ("[1, 2]", "[1, 2]"), ("seed", "'seed'"), ("3", "3")]
)
def test_a_file_that_is_no_mapping_is_refused(content: str, found: str, file: Path) -> None:
    file.write_text(content)
    assert refusal("--config", str(file)).endswith(f"expected lines of `setting: value`, found {found}")


@pytest.mark.parametrize(
    "content", [b"a: b: c", b"seed: [1", b"\xff\xfe\x00", b"seed:\t1\n\t- x", b"!!python/name:os.system"]
)
def test_a_file_that_is_no_yaml_is_refused(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    assert refusal("--config", str(file)).startswith(f"--config {file}: cannot be read as YAML: ")


@pytest.mark.parametrize("content", ["1: 2\n", "null: 1\n", "on: 1\n"])
def test_a_key_that_is_no_text_is_refused(content: str, file: Path) -> None:
    file.write_text(content)
    refusal("--config", str(file))


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1), st.booleans())
def test_settings_survive_the_way_through_a_file(tmp_path_factory, seed: int, threshold: float, images: bool) -> None:
    file = tmp_path_factory.mktemp("settings") / "settings.yaml"
    file.write_text(f"seed: {seed}\ngaze_threshold: {threshold}\ninclude_images: {images}\n")
    settings = load("--config", str(file))
    assert (settings.seed, settings.gaze_threshold, settings.include_images) == (seed, threshold, images)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().seed = 3


def test_help_names_the_program_and_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        load("--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert "python -m labeler.run" in text
    for name, field in LabelSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description
    assert "null" not in text
    assert "[]" not in text


def test_the_command_line_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["labeler", "--seed", "9"])
    assert load_settings(LabelSettings).seed == 9


def test_what_decides_the_bytes_does_not_know_how_the_work_is_done() -> None:
    usual = load()
    other = load("--workers", "3", "--threads-per-worker", "5", "--gpus-per-worker", "0", "--output", "x")
    assert usual.label_config() == other.label_config()
    assert usual.label_config() != load("--seed", "1").label_config()


def test_the_output_is_needed_but_for_the_demo() -> None:
    assert load().output_folder() == "runs/demo/photos"
    assert load("--input", "images", "--output", "x").output_folder() == "x"
    with pytest.raises(UserError, match="--output is needed"):
        load("--input", "images").output_folder()
