"""Verification of a data set of photographs in the size of ImageNet's, from disk and over http, per core.

The figures for 1.28 million samples are projected from the time per sample, because that many photographs are not part
of the project. Opening and checking the index of 1.28 million samples is measured in bench_index.py.
"""

import argparse
import tempfile
import time
from pathlib import Path

from labeling_jobs import repeat_photographs
from timing import SHARED_DATA, Row, print_table, require_path

from common.parallel import available_cores
from labeler.verification.verify_copy import verify_copy
from labeler.verification.verify_dataset import verify_dataset
from tests.support.http_server import serve_folder
from tests.support.jobs import command, run

IMAGENET = 1_281_167
PER_SHARD = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600, help="number of samples (default: 600)")
    parser.add_argument("--repetitions", type=int, default=3, help="default: 3")
    arguments = parser.parse_args()
    photographs = require_path(SHARED_DATA / "imagenet-sample")
    cores = available_cores()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = repeat_photographs(photographs, folder / "images", arguments.images)
        settings = {"input": images, "output": folder / "data", "samples_per_shard": PER_SHARD}
        done = run(command(**settings, teacher="tests.support.teachers:null_teacher", limit=arguments.images))
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        durations: dict[str, list[float]] = {"disk": [], "http": []}
        with serve_folder(folder) as server:
            for _ in range(arguments.repetitions):
                for case, durations_of_case in durations.items():
                    start = time.monotonic()
                    location = f"{server.url}/data" if case == "http" else str(folder / "data")
                    report = verify_copy(location, cores) if case == "http" else verify_dataset(location, cores)
                    durations_of_case.append(time.monotonic() - start)
                    if not report["ok"]:
                        raise RuntimeError(report["problems"])
    rows = []
    for case, durations_of_case in durations.items():
        rates = [arguments.images / duration for duration in durations_of_case]
        hours = [IMAGENET / rate / 3600 for rate in rates]
        rows += [Row(f"{case}, {cores} processes", rates, "samples/s"), Row("    1.28 million, projected", hours, "h")]
    print_table(f"verification of {arguments.images:,} samples", rows)


if __name__ == "__main__":
    main()
