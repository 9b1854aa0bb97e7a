"""Run every benchmark and print one Markdown table of all figures that have a bar."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import RESULTS_VARIABLE

HERE = Path(__file__).parent


def main() -> int:
    with tempfile.NamedTemporaryFile() as file:
        environment = {**os.environ, RESULTS_VARIABLE: file.name}
        scripts = sorted(HERE.glob("bench_*.py"))
        failed = [script.name for script in scripts if not run_script(script, environment)]
        rows = [json.loads(line) for line in file.read().splitlines()]
    print("| benchmark | what | measured | bar |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run_script(script: Path, environment: dict[str, str]) -> bool:
    """Run a benchmark. Returns whether it succeeded."""
    print(f"{script.name} ...", flush=True)
    return subprocess.run([sys.executable, script], env=environment, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
