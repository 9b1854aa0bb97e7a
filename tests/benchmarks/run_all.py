"""Every benchmark, one after the other, and at the end all ratios with their bars in one table of Markdown."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import RESULTS

HERE = Path(__file__).parent


def main() -> int:
    with tempfile.NamedTemporaryFile() as file:
        environment = {**os.environ, RESULTS: file.name}
        scripts = sorted(HERE.glob("bench_*.py"))
        failed = [script.name for script in scripts if _fails(script, environment)]
        rows = [json.loads(line) for line in file.read().splitlines()]
    print("| benchmark | what | measured | bar |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _fails(script: Path, environment: dict[str, str]) -> bool:
    print(f"{script.name} ...", flush=True)
    return subprocess.run([sys.executable, script], env=environment, check=False).returncode != 0


if __name__ == "__main__":
    sys.exit(main())
