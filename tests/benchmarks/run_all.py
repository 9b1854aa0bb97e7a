"""Run every benchmark, print one Markdown table of all figures that have a bar, and save all results as JSON.

The JSON file holds the machine, the versions of the libraries and every row. Exit code 1 if a benchmark fails or a bar
is missed.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from timing import RESULTS_VARIABLE, ROOT

HERE = Path(__file__).parent
PACKAGES = ("torch", "torchvision", "ray", "numpy", "pillow", "webdataset", "lightly", "ai-edge-litert")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="benchmarks to run, such as views gaze")
    parser.add_argument("--json", type=Path, default=ROOT / "runs" / "benchmarks.json", help="file to write")
    arguments = parser.parse_args()
    scripts = sorted(HERE.glob("bench_*.py"))
    if arguments.only:
        scripts = [HERE / f"bench_{name}.py" for name in arguments.only]
    start = time.time()
    with tempfile.NamedTemporaryFile() as file:
        environment = {**os.environ, RESULTS_VARIABLE: file.name}
        failed = [script.name for script in scripts if not run_script(script, environment)]
        rows = [json.loads(line) for line in file.read().splitlines()]
    content = {"machine": describe_machine(), "seconds": round(time.time() - start), "failed": failed, "results": rows}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    print_results(rows)
    missed = [f"{row['benchmark']}: {row['what']}" for row in rows if row["reached"] is False]
    for title, names in (("failed", failed), ("bar missed", missed)):
        for name in names:
            print(f"{title}: {name}", file=sys.stderr)
    print(f"all results: {arguments.json}")
    return 1 if failed or missed else 0


def run_script(script: Path, environment: dict[str, str]) -> bool:
    """Run a benchmark. Returns whether it succeeded."""
    print(f"{script.name} ...", flush=True)
    return subprocess.run([sys.executable, script], env=environment, check=False).returncode == 0


def print_results(rows: list[dict[str, Any]]) -> None:
    """Print the rows with a bar as Markdown."""
    print("| benchmark | what | median | minimum | maximum | bar |\n|---|---|---|---|---|---|")
    for row in rows:
        if row["reached"] is not None:
            print(f"| {' | '.join([row['benchmark'], *row['cells']])} |")


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, GPU, Python and package versions, and the date."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": processor,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "packages": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    sys.exit(main())
