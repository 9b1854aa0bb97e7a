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
