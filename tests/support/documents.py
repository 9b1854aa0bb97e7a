"""What the project's documents show: the blocks between their fences, and the commands in them."""

import re
from pathlib import Path

from tests.support.jobs import ROOT

DOCUMENTS = sorted(
    path for path in ROOT.glob("**/*.md") if not {".venv", "runs", "node_modules"} & set(path.relative_to(ROOT).parts)
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[tuple[str, str]]:
    """Language and content of each, in order."""
    return FENCE.findall(document.read_text())


def shell_lines(document: Path) -> list[str]:
    """The commands of a document, continued lines joined."""
    return [line for language, block in blocks(document) if language in ("", "bash", "sh") for line in lines(block)]


def lines(block: str) -> list[str]:
    """The commands of a block, continued lines joined."""
    return re.sub(r"\s*\\\n\s*", " ", block).splitlines()
