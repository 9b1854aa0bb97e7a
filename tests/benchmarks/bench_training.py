"""Training with two workers against one, as users start it: shards are read, decoded and trained on.

Both train on the same batches; each worker has one thread for PyTorch and one that decodes. The result is the median of
the rates of the steps in `metrics.jsonl`, without the first steps, which excludes start-up.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from timing import Row, print_table, ratios

from tests.support.data.datasets import make_dataset
from tests.support.jobs import command, run

BAR = 1.8
CORES_FOR_TWO = 4  # two workers, each with a training and a decoding thread
WARM_UP = 4  # steps that are not counted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="bench") as scratch:
        data = make_dataset(Path(scratch) / "data", [arguments.batch_size] * arguments.steps)
        for repetition in range(arguments.repetitions):
            for workers, worker_rates in rates.items():
                output = Path(scratch) / f"{workers}-{repetition}"
                settings = {"image_size": arguments.image_size, "batch_size": arguments.batch_size, "epochs": 1}
                worker_rates.append(measure_rate(output, data=data, workers=workers, warmup_epochs=0, **settings))
    cores = os.cpu_count() or 1
    what = "2 workers / 1 worker" + ("" if cores >= CORES_FOR_TWO else f" (the bar needs {CORES_FOR_TWO} cores)")
    print_table(
        f"training, resnet18, {arguments.image_size} px, batch {arguments.batch_size}",
        [
            Row("1 worker", rates[1], "images/s"),
            Row("2 workers", rates[2], "images/s"),
            Row(what, ratios(rates[2], rates[1]), "x", BAR if cores >= CORES_FOR_TWO else None),
        ],
    )


def measure_rate(output: Path, **settings: object) -> float:
    """Train with the settings. Returns images per second of the median step."""
    line = command(module="trainer.run", output=output, backbone="resnet18", threads=1, **settings)
    done = run(line, OMP_NUM_THREADS="1")
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(step["images_per_second"] for step in steps[WARM_UP:] if "images_per_second" in step)


if __name__ == "__main__":
    main()
