import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from common.errors import UserError
from common.extras import EXTRAS, require_extra
from tests.support.jobs import ROOT


def test_installed_extras_are_accepted():
    for extra in EXTRAS:
        require_extra(extra, "this test")


@pytest.mark.parametrize("extra", EXTRAS)
def test_error_names_missing_package_and_its_extra(extra, monkeypatch):
    package = EXTRAS[extra][-1]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=re.escape(f"this test needs the package {package} (")) as error:
        require_extra(extra, "this test")
    assert f"'.[{extra}]'" in str(error.value)


@pytest.mark.parametrize("extra", EXTRAS)
def test_extra_in_pyproject_installs_its_packages(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = {requirement.partition(">=")[0] for requirement in project["optional-dependencies"][extra]}
    providers = packages_distributions()
    assert all(requirements & set(providers[package]) for package in EXTRAS[extra])
