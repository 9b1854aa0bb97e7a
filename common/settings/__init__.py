"""Settings of every program. Flags override environment variables, which override a YAML file.

Unknown flags, variables and keys are errors.
"""

import argparse
import difflib
import inspect
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import Field, ValidationError, create_model
from pydantic_settings import (
    BaseSettings,
    CliApp,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from common.errors import UserError
from common.settings.help_groups import grouped_cli_source


class Settings(BaseSettings):
    """Base of a program's settings. Subclasses set `env_prefix` and `cli_prog_name` in their `model_config`.

    `longer_prefixes` lists the prefixes of other programs that begin with this program's prefix: their environment
    variables are ignored. `help_groups` lists the fields, inherited ones included, under the titles that `--help`
    shows; fields that it does not name appear under "options".
    """

    longer_prefixes: ClassVar[tuple[str, ...]] = ()
    help_groups: ClassVar[dict[str, tuple[str, ...]]] = {}

    model_config = SettingsConfigDict(
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,
        extra="forbid",
        frozen=True,
    )

    config: Path | None = Field(None, description="YAML file of settings; keys are the flags' names with underscores")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        names = [name for group in cls.help_groups.values() for name in group]
        wrong = {name for name in names if name not in cls.model_fields or names.count(name) > 1}
        if wrong:
            raise TypeError(f"{cls.__name__}.help_groups: not a field, or in two groups: {', '.join(sorted(wrong))}")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in order of precedence; `load_settings` sets the path of the YAML file and adds flags."""
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls)


# Kubernetes sets such variables in every container, so a service could be mistaken for a setting with our prefix
KUBERNETES_VARIABLE = re.compile(r"_(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)")

SettingsT = TypeVar("SettingsT", bound=Settings)


def load_settings(settings_class: type[SettingsT], argv: list[str] | None = None) -> SettingsT:
    """Read settings from `argv` (default: `sys.argv[1:]`), the environment and the file that `--config` names.

    Raises UserError that names the setting, what was expected and what was found.
    """
    arguments = sys.argv[1:] if argv is None else argv
    path = _config_path(settings_class, arguments)
    _check_environment(settings_class)
    with_file = create_model(
        settings_class.__name__,
        __base__=settings_class,
        __doc__=inspect.getdoc(settings_class),
        __cls_kwargs__={"yaml_file": path},
    )
    try:
        source = grouped_cli_source(with_file, settings_class.help_groups)
        loaded = CliApp.run(with_file, cli_args=arguments, cli_settings_source=source)
    except SettingsError as error:
        message = str(error).removeprefix("error parsing CLI: ")
        unknown = " ".join(word for word in message.split() if word.startswith("-"))
        raise UserError(f"{message}{_suggestion(settings_class, unknown)} (--help lists every setting)") from None
    except ValidationError as error:
        raise UserError(_describe_invalid(settings_class, error)) from None
    values = {name: getattr(loaded, name) for name in settings_class.model_fields}
    return settings_class.model_construct(_fields_set=loaded.model_fields_set, **values)


def _config_path(settings_class: type[Settings], arguments: list[str]) -> Path | None:
    """Return the settings file that the arguments or the environment name, after checking that it is a YAML mapping."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    variable = f"{settings_class.model_config['env_prefix']}CONFIG"
    from_environment = next((value for name, value in os.environ.items() if name.upper() == variable), None)
    parser.add_argument("--config", default=from_environment)
    try:
        config = parser.parse_known_args(arguments)[0].config
    except SystemExit:
        raise UserError("--config expects the path of a YAML file") from None
    if config is None:
        return None
    try:
        text = Path(config).read_text()
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {config}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if content is not None and not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        raise UserError(f"--config {config}: expected lines of `setting: value`, found {content!r:.60}")
    if repeated := _repeated_keys(text):
        raise UserError(f"--config {config}: expected each setting once, found several times: {', '.join(repeated)}")
    return Path(config)


def _repeated_keys(text: str) -> list[str]:
    """Return the keys that a YAML file contains more than once, of which a parser silently uses the last."""
    mapping = yaml.compose(text, yaml.SafeLoader)
    keys = Counter(key.value for key, _ in mapping.value) if isinstance(mapping, yaml.MappingNode) else Counter()
    return [key for key, number in keys.items() if number > 1]


def _check_environment(settings_class: type[Settings]) -> None:
    """Raise UserError for an environment variable with the program's prefix that names no setting."""
    prefix = str(settings_class.model_config["env_prefix"])
    known = {f"{prefix}{name}".upper() for name in settings_class.model_fields}
    others = tuple(other for other in settings_class.longer_prefixes if other != prefix)
    for variable in os.environ:
        name = variable.upper()
        ours = name.startswith(prefix) and not name.startswith(others) and not KUBERNETES_VARIABLE.search(name)
        if ours and name not in known:
            suggestion = _suggestion(settings_class, name.removeprefix(prefix).lower())
            raise UserError(f"environment variable {variable}: there is no such setting{suggestion}")


def _describe_invalid(settings_class: type[Settings], error: ValidationError) -> str:
    """Describe everything that is wrong with the settings in one line. Unknown ones are keys in the YAML file."""
    parts = []
    for detail in error.errors():
        name = ".".join(part for part in detail["loc"] if isinstance(part, str))  # without indices into lists
        if detail["type"] == "extra_forbidden":
            parts.append(f"{name}: there is no such setting{_suggestion(settings_class, name, key=True)}")
        else:
            flag = f"--{name.replace('_', '-')}: " if name else ""
            found: Any = f", found {detail['input']!r}" if name else ""
            parts.append(f"{flag}{detail['msg'].removeprefix('Value error, ')}{found}")
    return "; ".join(parts)


def _suggestion(settings_class: type[Settings], text: str, key: bool = False) -> str:
    """Return "; did you mean --x?" if a word of the text resembles the name of a setting, else an empty string.

    If `key` is set, the name is written as in a YAML file and not as a flag.
    """
    for word in text.replace("-", "_").split():
        close = difflib.get_close_matches(word.lstrip("_"), list(settings_class.model_fields), n=1)
        if close:
            return f"; did you mean {close[0] if key else '--' + close[0].replace('_', '-')}?"
    return ""
