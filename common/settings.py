"""Settings of every program: command line over environment over YAML file over defaults; an unknown key is an error."""

import argparse
import difflib
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from common.errors import UserError


class Settings(BaseSettings):
    """Base of a program's settings. Subclasses set `env_prefix` and `cli_prog_name` in their `model_config`.

    `longer_prefixes` are those of other programs that begin with this one's.
    """

    longer_prefixes: ClassVar[tuple[str, ...]] = ()

    model_config = SettingsConfigDict(
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,
        extra="forbid",
        frozen=True,
    )

    config: Path | None = Field(None, description="YAML file of settings; keys are the flags' names with underscores")


class Help(argparse.RawDescriptionHelpFormatter):
    """Of defaults only those that say something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return (action.help or "").removesuffix(" (default: null)").removesuffix(" (default: [])")


# what Kubernetes sets in every container for a service that happens to be named like the prefix
KUBERNETES_VARIABLE = re.compile(r"_(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)")

S = TypeVar("S", bound=Settings)


def load_settings(cls: type[S], argv: list[str] | None = None) -> S:
    """Read settings from `argv` (the process's own by default), the environment and the file named by `--config`.

    Raises UserError that names the setting, what was expected and what was found.
    """
    arguments = sys.argv[1:] if argv is None else argv
    path = _config_path(cls, arguments)
    _check_environment(cls)

    class WithFile(cls):  # type: ignore[misc, valid-type]
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=path)

    WithFile.__doc__ = inspect.getdoc(cls)
    try:
        flags: CliSettingsSource[Any] = CliSettingsSource(WithFile, formatter_class=Help)
        loaded = CliApp.run(WithFile, cli_args=arguments, cli_settings_source=flags)
    except SettingsError as error:
        message = str(error).removeprefix("error parsing CLI: ")
        unknown = " ".join(word for word in message.split() if word.startswith("-"))
        raise UserError(f"{message}{_suggestion(cls, unknown)} (--help lists every setting)") from None
    except ValidationError as error:
        raise UserError(_sentence(cls, error)) from None
    values = {name: getattr(loaded, name) for name in cls.model_fields}
    return cls.model_construct(_fields_set=loaded.model_fields_set, **values)


def _config_path(cls: type[Settings], arguments: list[str]) -> Path | None:
    """The YAML file that the arguments or the environment name, checked to be one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    variable = f"{cls.model_config['env_prefix']}CONFIG"
    from_environment = next((value for name, value in os.environ.items() if name.upper() == variable), None)
    parser.add_argument("--config", default=from_environment)
    try:
        named = parser.parse_known_args(arguments)[0].config
    except SystemExit:
        raise UserError("--config expects the path of a YAML file") from None
    if named is None:
        return None
    try:
        content = yaml.safe_load(Path(named).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {named}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if content is not None and not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        raise UserError(f"--config {named}: expected lines of `setting: value`, found {content!r:.60}")
    return Path(named)


def _check_environment(cls: type[Settings]) -> None:
    """A misspelt environment variable is an error too, not a silent default."""
    prefix = str(cls.model_config["env_prefix"])
    known = {f"{prefix}{name}".upper() for name in cls.model_fields}
    others = tuple(other for other in cls.longer_prefixes if other != prefix)
    for variable in os.environ:
        name = variable.upper()
        ours = name.startswith(prefix) and not name.startswith(others) and not KUBERNETES_VARIABLE.search(name)
        if ours and name not in known:
            suggestion = _suggestion(cls, name.removeprefix(prefix).lower())
            raise UserError(f"environment variable {variable}: there is no such setting{suggestion}")


def _sentence(cls: type[Settings], error: ValidationError) -> str:
    """All that is wrong with the settings, in one line."""
    parts = []
    for detail in error.errors():
        name = ".".join(part for part in detail["loc"] if isinstance(part, str))  # not places in lists
        if detail["type"] == "extra_forbidden":
            parts.append(f"{name}: there is no such setting{_suggestion(cls, name)}")
        else:
            flag = f"--{name.replace('_', '-')}: " if name else ""
            found: Any = f", found {detail['input']!r}" if name else ""
            parts.append(f"{flag}{detail['msg'].removeprefix('Value error, ')}{found}")
    return "; ".join(parts)


def _suggestion(cls: type[Settings], text: str) -> str:
    """ "; did you mean --x?" where a word of the text resembles a setting."""
    for word in text.replace("-", "_").split():
        close = difflib.get_close_matches(word.lstrip("_"), list(cls.model_fields), n=1)
        if close:
            return f"; did you mean --{close[0].replace('_', '-')}?"
    return ""
