"""Titled groups of settings in the output of `--help`."""

import argparse
from typing import Any

from pydantic_settings import BaseSettings, CliSettingsSource


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help formatter that omits defaults that carry no information (null, empty list)."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return (action.help or "").removesuffix(" (default: null)").removesuffix(" (default: [])")


def grouped_cli_source(
    settings_class: type[BaseSettings], groups: dict[str, tuple[str, ...]]
) -> CliSettingsSource[argparse.ArgumentParser]:
    """Return the command line source of a settings class, with its arguments sorted into titled groups.

    `groups` lists field names by title. Titles and fields appear in this order, after argparse's default group, which
    holds the fields that no group names. On its own, pydantic-settings lists all fields in one group, inherited first.
    """
    arguments: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {}

    def collect_argument(parser: argparse.ArgumentParser, *flags: str, **options: Any) -> None:
        arguments[options.get("dest", flags[0])] = flags, options  # positional arguments have no `dest`

    source = CliSettingsSource[argparse.ArgumentParser](
        settings_class, add_argument_method=collect_argument, formatter_class=HelpFormatter
    )
    grouped = {name for names in groups.values() for name in names}
    for name, (flags, options) in arguments.items():
        if name not in grouped:
            source.root_parser.add_argument(*flags, **options)
    for title, names in groups.items():
        group = source.root_parser.add_argument_group(title)
        for name in names:
            flags, options = arguments[name]
            group.add_argument(*flags, **options)
    return source
