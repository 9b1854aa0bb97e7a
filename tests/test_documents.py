"""The Markdown documents are true: commands have the flags shown, links and paths exist, the recipe example trains."""

import os
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from tests.support.documents import DOCUMENTS, FENCE, blocks, shell_lines
from tests.support.jobs import ROOT

LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)?(?:#([^)\s]+))?\)")
PROGRAM = re.compile(r"python -m ((?:labeler|trainer)[\w.]*)")
README_LINES = 130
PROGRAMS = ("common", "labeler", "trainer")

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def documented_calls() -> list[tuple[str, str, list[str]]]:
    """Return (document, module, flags) for every call of one of the project's programs in a document."""
    calls = []
    for path in DOCUMENTS:
        for line in shell_lines(path):
            for match in PROGRAM.finditer(line):
                rest = re.split(r"\s(?:&&|\||>)\s|;", line[match.end() :])[0]
                words = shlex.split(rest, comments=True)
                flags = sorted({word.partition("=")[0] for word in words if word.startswith("--")})
                calls.append((str(path.relative_to(ROOT)), match[1], flags))
    return calls


@cache
def help_text(module: str) -> str:
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
    calls = documented_calls()
    assert len(calls) > 30
    assert {"README.md", "labeler/teacher/README.md", "trainer/README.md", "deploy/README.md"} <= {
        document for document, _, _ in calls
    }


@pytest.mark.parametrize("module", sorted({module for _, module, _ in documented_calls()}))
def test_documented_flags_exist(module: str) -> None:
    text = help_text(module)
    for document, name, flags in documented_calls():
        if name == module:
            missing = [flag for flag in flags if not re.search(rf"{flag}\b", text)]
            assert not missing, f"{document}: {module} has no {', '.join(missing)}"


def test_documented_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        for line in shell_lines(path):
            if line.startswith("make "):
                words = [word for word in shlex.split(line, comments=True)[1:] if "=" not in word]
                assert set(words) <= targets, f"{path}: {line}"


@pytest.mark.parametrize(("target", "missing"), [("reproduce", "PEOPLE CIFAR"), ("study", "PEOPLE")])
def test_targets_with_data_name_the_inputs_that_they_lack(target: str, missing: str) -> None:
    command = ["make", "--dry-run", target, "PHOTOS=photos", "PEOPLE=", "CIFAR="]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert f"missing: {missing}." in done.stderr
    assert "PEOPLE=FORMAT:FOLDER" in done.stderr


@every_document
def test_links_lead_to_files_and_headings(document: Path) -> None:
    text = re.sub(FENCE, "", document.read_text())
    for target, anchor in LINK.findall(text):
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), f"{document}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{document}: {target}#{anchor}"


@every_document
def test_code_fences_name_their_language(document: Path) -> None:
    fences = re.findall(r"^ *```(.*)$", document.read_text(), re.MULTILINE)
    assert len(fences) % 2 == 0, f"{document}: a code fence is not closed"
    assert all(language in {"bash", "json", "python", "text", "yaml"} for language in fences[::2])
    assert not any(fences[1::2])


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def tree_paths() -> set[str]:
    """Return the paths, relative to the repository, of the folder tree in README.md: two spaces indent a level."""
    [tree] = [block for language, block in blocks(ROOT / "README.md") if language == "text" and "common/" in block]
    paths: set[str] = set()
    parents: list[str] = []
    for line in tree.splitlines():
        name, comment = line.strip().split(maxsplit=1)
        assert comment, line
        level = (len(line) - len(line.lstrip())) // 2
        parents[level:] = [name]
        paths.add("".join(parents))
    return paths


def test_readme_tree_shows_what_exists() -> None:
    for path in tree_paths():
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path


def test_readme_tree_is_complete() -> None:
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    expected = {path for path in folders if not any(fnmatch(path.name, pattern) for pattern in ignored)}
    expected |= {path.parent for name in PROGRAMS for path in (ROOT / name).rglob("__init__.py")}
    missing = {f"{path.relative_to(ROOT)}/" for path in expected} - tree_paths()
    assert not missing, f"README.md: the tree lacks {', '.join(sorted(missing))}"


def test_recipe_example_of_the_contributing_guide_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.data.datasets import make_dataset
    from trainer import recipes, run

    [example] = [block for _, block in blocks(ROOT / "CONTRIBUTING.md") if "RECIPE" in block]
    (tmp_path / "plain_contrast.py").write_text(example)
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path)])
    assert "plain-contrast" in recipes.recipe_names()
    data = make_dataset(tmp_path / "data", [8], classes=2)
    small = ["--backbone=resnet18", "--image-size=32", "--batch-size=8", "--epochs=1"]
    assert run.main(["--recipe=plain-contrast", f"--data={data}", f"--output={tmp_path / 'run'}", *small]) == 0
    assert (tmp_path / "run/result.json").exists()


def test_fidelity_tables_name_existing_code() -> None:
    lines = (ROOT / "trainer/FIDELITY.md").read_text().splitlines()
    rows = [cells for line in lines if len(cells := re.split(r" *\| *", line.strip("| "))) == 3 and "`" in cells[1]]
    assert len(rows) > 80
    for statement, code, status in rows:
        assert re.match(r"(faithful|deviates|missing)\b", status), statement
        places = re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", code)
        assert len(places) == code.count(".py`"), statement
        for path, names in places:
            source = (ROOT / path).read_text()
            for name in re.findall(r"\w+", names):
                assert re.search(rf"(def|class) {name}\b|^ *(\w+, )*{name}\b.*[:=]", source, re.MULTILINE), (path, name)
