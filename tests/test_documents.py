"""What the documents show: commands with flags that exist, links that lead somewhere, code that runs."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, FENCE, blocks, shell_lines
from tests.support.jobs import ROOT

LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)?(?:#([^)\s]+))?\)")
PROGRAM = re.compile(r"python -m ((?:labeler|trainer)[\w.]*)")


def calls() -> list[tuple[str, str, list[str]]]:
    """Each program that a document calls, with the flags that it shows."""
    found = []
    for path in DOCUMENTS:
        for line in shell_lines(path):
            for match in PROGRAM.finditer(line):
                rest = re.split(r"\s(?:&&|\||>)\s|;", line[match.end() :])[0]
                words = shlex.split(rest, comments=True)
                flags = sorted({word.partition("=")[0] for word in words if word.startswith("--")})
                found.append((str(path.relative_to(ROOT)), match[1], flags))
    return found


@cache
def help_of(module: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_documents_show_commands() -> None:
    assert len(calls()) > 30
    assert {"README.md", "labeler/teacher/README.md", "trainer/README.md", "deploy/README.md"} <= {
        call[0] for call in calls()
    }


@pytest.mark.parametrize("module", sorted({module for _, module, _ in calls()}))
def test_programs_of_the_documents_have_the_flags_that_are_shown(module: str) -> None:
    text = help_of(module)
    for document, name, flags in calls():
        if name == module:
            missing = [flag for flag in flags if not re.search(rf"{flag}\b", text)]
            assert not missing, f"{document}: {module} has no {', '.join(missing)}"


def test_make_targets_of_the_documents_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        for line in shell_lines(path):
            if line.startswith("make "):
                words = [word for word in shlex.split(line, comments=True)[1:] if "=" not in word]
                assert set(words) <= targets, f"{path}: {line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(FENCE, "", document.read_text())
    for target, anchor in LINK.findall(text):
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), f"{document}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{document}: {target}#{anchor}"


def test_the_guides_recipe_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.datasets import make_dataset
    from trainer import recipes, run

    [example] = [block for _, block in blocks(ROOT / "CONTRIBUTING.md") if "RECIPE" in block]
    (tmp_path / "plain_contrast.py").write_text(example)
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path)])
    assert "plain-contrast" in recipes.recipe_names()
    data = make_dataset(tmp_path / "data", [8], classes=2)
    small = ["--backbone=resnet18", "--image-size=32", "--batch-size=8", "--epochs=1"]
    assert run.main(["--recipe=plain-contrast", f"--data={data}", f"--output={tmp_path / 'run'}", *small]) == 0
    assert (tmp_path / "run/result.json").exists()
