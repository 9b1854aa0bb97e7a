import re
import sys
import tomllib

import pytest

from common.errors import UserError
from common.extras import EXTRAS, require_extra
from tests.support.jobs import ROOT


def test_what_is_installed_is_not_asked_for():
    for extra in EXTRAS:
        require_extra(extra, "this test")


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_package_is_named_with_its_extra(extra, monkeypatch):
    package = EXTRAS[extra][-1]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=re.escape(f"this test needs the package {package} (")) as refusal:
        require_extra(extra, "this test")
    assert f"'.[{extra}]'" in str(refusal.value)


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_extra_brings_the_package(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = " ".join(project["optional-dependencies"][extra])
    assert all(package in brought for package in EXTRAS[extra])
