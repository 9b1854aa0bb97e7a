"""The code blocks of the project's Markdown documents, and the commands in them."""

import re
from pathlib import Path

from tests.support.jobs import ROOT

NOT_OURS = {".venv", ".venv-lowest", "runs", "node_modules"}
DOCUMENTS = sorted(path for path in ROOT.glob("**/*.md") if not NOT_OURS & set(path.relative_to(ROOT).parts))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[tuple[str, str]]:
    """Return the language and content of each fenced code block, in order."""
    return FENCE.findall(document.read_text())


def shell_lines(document: Path) -> list[str]:
    """Return the shell commands of a document, with continued lines joined."""
    return [line for language, block in blocks(document) if language == "bash" for line in lines(block)]


def lines(block: str) -> list[str]:
    """Return the commands of a code block, with continued lines joined."""
    return re.sub(r"\s*\\\n\s*", " ", block).splitlines()


def python_example(document: Path, heading: str, **placeholders: str) -> str:
    """Return the only Python block of a section, with each placeholder, such as DATASET, replaced by its value."""
    [section] = re.findall(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", document.read_text(), re.MULTILINE | re.DOTALL
    )
    [example] = [code for language, code in FENCE.findall(section) if language == "python"]
    for name, value in placeholders.items():
        assert name in example, f"{document}: the example of {heading!r} lacks {name}"
        example = example.replace(name, value)
    return example
