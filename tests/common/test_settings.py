import os
import re
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.errors import UserError
from common.settings import Settings, load_settings
from labeler.config import LabelSettings, RetrySettings
from trainer.config import TrainSettings
from trainer.studies.config import TableSettings


class GroupedSettings(Settings):
    """Settings with one argument of each kind, in groups whose order is not that of the fields."""

    model_config = SettingsConfigDict(env_prefix="GROUPED_", cli_prog_name="grouped")
    help_groups: ClassVar = {"most used": ("steps", "names"), "rarely used": ("fast", "folder")}

    names: list[str] = Field([], description="names of things")
    folder: CliPositionalArg[str] = Field(description="folder of things")
    ungrouped: int = Field(1, description="setting without a group")
    fast: bool = Field(True, description="hurry")
    steps: int = Field(3, description="number of steps")


@pytest.fixture(autouse=True)
def _unset_program_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.upper().startswith(("LABELER_", "TRAINER_")):
            monkeypatch.delenv(variable)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def load(*arguments: str) -> LabelSettings:
    return load_settings(LabelSettings, list(arguments))


def error_message(*arguments: str) -> str:
    """Return the message of the UserError that these arguments cause, after checking that it is one line."""
    with pytest.raises(UserError) as error:
        load(*arguments)
    message = str(error.value)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def test_settings_have_defaults_without_any_source() -> None:
    settings = load()
    assert type(settings) is LabelSettings
    assert settings.model_dump() == {name: field.default for name, field in LabelSettings.model_fields.items()}


def test_file_environment_and_command_line_are_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_command_line_overrides_environment_overrides_file_overrides_default(
    sources: str, expected: int, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("seed: 1\n" if "yaml" in sources else "")
    if "environment" in sources:
        monkeypatch.setenv("LABELER_SEED", "2")
    assert load("--config", str(file), *(["--seed", "3"] if "command" in sources else [])).seed == expected


def test_environment_variable_may_name_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("seed: 5\n")
    monkeypatch.setenv("LABELER_CONFIG", str(file))
    assert load().seed == 5


def test_environment_variables_may_be_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("labeler_seed", "5")
    assert load().seed == 5


def test_environment_variable_that_names_file_may_be_lower_case(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("seed: 5\n")
    monkeypatch.setenv("labeler_config", str(file))
    assert load().seed == 5


def test_file_on_command_line_overrides_file_in_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("seed: 5\n")
    monkeypatch.setenv("LABELER_CONFIG", str(file.with_name("absent.yaml")))
    assert load("--config", str(file)).seed == 5


@pytest.mark.parametrize("content", ["", "# nothing but a comment\n", "{}", "---\n"])
def test_empty_file_changes_nothing(content: str, file: Path) -> None:
    file.write_text(content)
    assert load("--config", str(file)).label_config() == load().label_config()


def test_null_in_file_is_none_where_allowed_and_an_error_elsewhere(file: Path) -> None:
    file.write_text("limit: null\n")
    assert load("--config", str(file)).limit is None
    file.write_text("seed: null\n")
    assert "--seed" in error_message("--config", str(file))


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [("--sed", "--seed"), ("--sample-per-shard", "--samples-per-shard"), ("--mapsize", "--map-size")],
)
def test_unknown_flag_is_an_error_that_suggests_nearest_flag(flag: str, nearest: str) -> None:
    message = error_message(flag, "3")
    assert flag in message
    assert f"did you mean {nearest}?" in message


@pytest.mark.parametrize("argument", ["--xyzzy", "extra", "--samples", "--no-seed"])
def test_unknown_argument_is_an_error_that_names_it(argument: str) -> None:
    assert argument in error_message(argument)


@pytest.mark.parametrize(
    ("key", "nearest"), [("sed", "seed"), ("samples-per-shard", "samples_per_shard"), ("MapSize", "map_size")]
)
def test_unknown_key_in_file_is_an_error_that_suggests_nearest_key(key: str, nearest: str, file: Path) -> None:
    file.write_text(f"{key}: 3\n")
    message = error_message("--config", str(file))
    assert key in message
    assert f"did you mean {nearest}?" in message


def test_unknown_environment_variable_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELER_SED", "3")
    assert "LABELER_SED" in error_message()


def test_unknown_environment_variable_is_an_error_that_suggests_nearest_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELER_SED", "3")
    assert "did you mean" in error_message()


def test_variables_with_other_prefixes_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_variables_with_longer_prefixes_of_other_programs_are_ignored(
    settings: type[Settings], other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(other, "3")
    load_settings(settings, [])


def test_misspelled_variable_with_longer_prefix_is_an_error_of_its_own_program(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_value_of_wrong_type_or_range_is_a_one_line_error_from_every_source(
    flag: str, value: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = flag.removeprefix("--").replace("-", "_")
    file.write_text(f"{name}: {value}\n")
    for message in (error_message(f"{flag}={value}"), error_message("--config", str(file))):
        assert message.startswith(f"{flag}: Input should be ")
        assert value in message
    monkeypatch.setenv(f"LABELER_{name.upper()}", value)
    assert error_message().startswith(f"{flag}: Input should be ")


def test_all_mistakes_are_reported_at_once(file: Path) -> None:
    file.write_text("map_size: 4\nbatch: 3\nseed: x\n")
    message = error_message("--config", str(file))
    assert all(name in message for name in ("--map-size", "batch", "--seed", "did you mean batch_size?"))


def test_flag_without_its_value_is_an_error() -> None:
    assert "--seed: expected one argument" in error_message("--seed")
    assert "--config expects" in error_message("--config")


def test_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "absent.yaml"
    message = error_message("--config", str(path))
    assert f"--config {path}" in message
    assert "No such file" in message
    assert error_message(f"--config={path}") == message


def test_folder_as_file_is_an_error(tmp_path: Path) -> None:
    assert f"--config {tmp_path}" in error_message("--config", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "found"), [("- seed\n", "['seed']"), ("[1, 2]", "[1, 2]"), ("seed", "'seed'"), ("3", "3")]
)
def test_file_that_is_not_a_mapping_is_an_error(content: str, found: str, file: Path) -> None:
    file.write_text(content)
    assert error_message("--config", str(file)).endswith(f"expected lines of `setting: value`, found {found}")


@pytest.mark.parametrize(
    "content", [b"a: b: c", b"seed: [1", b"\xff\xfe\x00", b"seed:\t1\n\t- x", b"!!python/name:os.system"]
)
def test_file_that_is_not_yaml_is_an_error(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    assert error_message("--config", str(file)).startswith(f"--config {file}: cannot be read as YAML: ")


@pytest.mark.parametrize("content", ["1: 2\n", "null: 1\n", "on: 1\n"])
def test_key_that_is_not_text_is_an_error(content: str, file: Path) -> None:
    file.write_text(content)
    error_message("--config", str(file))


@pytest.mark.parametrize(
    ("content", "repeated"),
    [
        ("seed: 1\nmap_size: 32\nseed: 1\n", "seed"),
        ("seed: 1\n'seed': 2\nlimit: 3\nlimit: 4\n", "seed, limit"),
        ("{seed: 1, seed: 2}", "seed"),
    ],
)
def test_repeated_key_in_file_is_an_error(content: str, repeated: str, file: Path) -> None:
    file.write_text(content)
    expected = f"--config {file}: expected each setting once, found several times: {repeated}"
    assert error_message("--config", str(file)) == expected


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1), st.booleans())
def test_settings_in_file_are_read_back(tmp_path_factory, seed: int, threshold: float, images: bool) -> None:
    file = tmp_path_factory.mktemp("settings") / "settings.yaml"
    file.write_text(f"seed: {seed}\ngaze_threshold: {threshold}\ninclude_images: {images}\n")
    settings = load("--config", str(file))
    assert (settings.seed, settings.gaze_threshold, settings.include_images) == (seed, threshold, images)


def test_settings_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().seed = 3


def test_help_shows_program_and_every_flag_without_empty_defaults(capsys: pytest.CaptureFixture[str]) -> None:
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


def help_text(settings_class: type[Settings], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        load_settings(settings_class, ["--help"])
    return capsys.readouterr().out


def help_sections(text: str) -> dict[str, str]:
    """Split the output of --help into its titled sections."""
    parts = re.split(r"^(\S.*):\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_help_shows_groups_in_declared_order(capsys: pytest.CaptureFixture[str]) -> None:
    sections = help_sections(help_text(GroupedSettings, capsys))
    assert list(sections) == ["options", "most used", "rarely used"]
    flags = {title: re.findall(r"^  (?:-h, )?(\S+?),?\s", text, re.MULTILINE) for title, text in sections.items()}
    assert flags["options"] == ["--help", "--config", "--ungrouped"]
    assert flags["most used"] == ["--steps", "--names"]
    assert flags["rarely used"] == ["--fast", "FOLDER"]


def test_help_in_groups_shows_descriptions_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    sections = help_sections(help_text(GroupedSettings, capsys))
    most_used = [" ".join(line.split()) for line in sections["most used"].splitlines()]
    assert most_used == ["--steps int number of steps (default: 3)", "--names list[str] names of things", ""]
    assert "--fast, --no-fast" in sections["rarely used"]


def test_settings_in_groups_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUPED_UNGROUPED", "4")
    settings = load_settings(GroupedSettings, ["here", "--no-fast", "--names", "a", "--names", "b"])
    assert settings.model_dump(exclude={"config"}) == {
        "names": ["a", "b"],
        "folder": "here",
        "ungrouped": 4,
        "fast": False,
        "steps": 3,
    }


@pytest.mark.parametrize(
    ("groups", "wrong"), [({"a": ("seed", "absent")}, "absent"), ({"a": ("seed",), "b": ("seed",)}, "seed")]
)
def test_group_that_names_no_field_or_a_field_twice_is_an_error(groups: dict[str, tuple[str, ...]], wrong: str) -> None:
    with pytest.raises(TypeError, match=rf"Wrong\.help_groups: not a field, or in two groups: {wrong}$"):

        class Wrong(Settings):
            help_groups = groups
            seed: int = 0


@pytest.mark.parametrize("settings_class", [LabelSettings, RetrySettings])
def test_every_labeling_setting_but_config_is_in_a_group(settings_class: type[Settings]) -> None:
    grouped = {name for names in settings_class.help_groups.values() for name in names}
    assert settings_class.model_fields.keys() - grouped == {"config"}


def test_command_line_of_process_is_used_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["labeler", "--seed", "9"])
    assert load_settings(LabelSettings).seed == 9


def test_label_config_does_not_depend_on_work_settings() -> None:
    default = load()
    other = load("--workers", "3", "--threads-per-worker", "5", "--gpus-per-worker", "0", "--output", "x")
    assert default.label_config() == other.label_config()
    assert default.label_config() != load("--seed", "1").label_config()


def test_output_is_required_except_for_demo() -> None:
    assert load().output_folder() == "runs/demo/photos"
    assert load("--input", "images", "--output", "x").output_folder() == "x"
    with pytest.raises(UserError, match="--output is needed"):
        load("--input", "images").output_folder()
