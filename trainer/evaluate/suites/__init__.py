"""Evaluation suites. A suite is one file that defines `SUITE`; its name is the file's. The folder is scanned."""

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # names are listed without torch
    from trainer.evaluate.suite import Headline, Suite


def suite_names() -> list[str]:
    """Return the names of all suites, as --suite takes them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load_suites() -> dict[str, "Suite"]:
    """Import all suites and return them by name, in the order of the report."""
    names = suite_names()
    modules = [importlib.import_module(f"{__name__}.{name.replace('-', '_')}") for name in names]
    suites: dict[str, Suite] = {name: module.SUITE for name, module in zip(names, modules, strict=True)}
    return dict(sorted(suites.items(), key=lambda item: item[1].position))


def load_headlines() -> dict["Headline", str]:
    """Return the headline figures of all suites with the names of their suites, in the order of the report."""
    return {headline: name for name, suite in load_suites().items() for headline in suite.headlines}
