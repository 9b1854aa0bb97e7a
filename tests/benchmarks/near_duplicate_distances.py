"""How near-duplicates and different photographs compare: bits of their hashes, correlation of their pixels.

    python tests/benchmarks/near_duplicate_distances.py FOLDER [FOLDER ...]

Copies of some photographs are made. For each kind, a table shows in how many bits their hashes differ, and what share
of them is found: with their pixels, and by their hashes alone. Then all photographs are compared
with each other; the pairs that would be reported are listed.
"""

import argparse
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from timing import Row, print_table

from common.parallel import in_processes
from labeler.labeling.perceptual_hash import hash_jpeg
from labeler.near_duplicates.confirm import MIN_CORRELATION, correlate, make_views
from labeler.near_duplicates.find import choose_limits
from labeler.near_duplicates.hashes import pack_hashes
from labeler.near_duplicates.search import find_similar_hashes
from tests.support.data.copies import COPIES
from tests.support.data.pictures import encoded

EXTENSIONS = (".jpg", ".jpeg")


class Comparison(NamedTuple):
    """A photograph and its copy."""

    distance: int  # bits
    correlation: float  # of the pixels
    candidate: bool  # whether the search finds the pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="folder with JPEGs, at any depth")
    parser.add_argument("--copies", type=int, default=2000, help="number of photographs to copy (default: 2000)")
    arguments = parser.parse_args()
    paths = [
        path for folder in arguments.folders for path in sorted(folder.rglob("*")) if path.suffix.lower() in EXTENSIONS
    ]
    chosen = random.Random(0).sample(paths, min(arguments.copies, len(paths)))
    report_copies(list(in_processes(compare_copies, chosen, processes=None, unit="photographs", start=use_one_thread)))
    hashes = list(in_processes(hash_photograph, paths, processes=None, unit="photographs", start=use_one_thread))
    report_pairs(*zip(*((path, code) for path, code in zip(paths, hashes, strict=True) if code), strict=True))


def use_one_thread() -> None:
    torch.set_num_threads(1)


def compare_copies(path: Path) -> list[Comparison]:
    """Compare a photograph with a copy of each kind."""
    image = Image.open(path).convert("RGB")
    copies = [copy(image) for copy in COPIES.values()]
    return [compare(image, copy) for copy in copies]


def compare(first: Image.Image, second: Image.Image) -> Comparison:
    codes = [hash_jpeg(encoded(image, "JPEG", quality=95), 1) for image in (first, second)]
    if None in codes:
        return Comparison(256, 0.0, False)
    words = pack_hashes(pa.chunked_array([codes]))
    candidate = find_similar_hashes(words, None, choose_limits(True, 1), threads=1)
    different = np.bitwise_count(words[0] ^ words[1]).astype(int)
    odd = int(different[2:].sum())
    return Comparison(
        int(different[:2].sum()) + min(odd, 128 - odd), correlate_images(first, second), len(candidate) > 0
    )


def correlate_images(first: Image.Image, second: Image.Image) -> float:
    """Return the correlation with the second image or its mirrored one."""
    views, others = (make_views(image.convert("L"))[None] for image in (first, second))
    return float(max(correlate(views, others)[0], correlate(views, others[..., ::-1])[0]))


def hash_photograph(path: Path) -> str | None:
    return hash_jpeg(path.read_bytes(), 1)


def report_copies(comparisons: list[list[Comparison]]) -> None:
    rows = []
    for name, kind in zip(COPIES, zip(*comparisons, strict=True), strict=True):
        distances, correlations, candidates = (np.array(values) for values in zip(*kind, strict=True))
        alone = candidates & (distances <= choose_limits(False, 1).all)
        rows += [
            Row(f"{name}: different bits", distances.tolist()),
            Row("    99 % of the copies have at most", float(np.percentile(distances, 99)), "bits"),
            Row("    lowest correlation", float(correlations.min())),
            Row("    found", 100 * float((candidates & (correlations >= MIN_CORRELATION)).mean()), "%"),
            Row("    found by hashes alone", 100 * float(alone.mean()), "%"),
        ]
    print_table(f"copies of {len(comparisons):,} photographs", rows)


def report_pairs(paths: tuple[Path, ...], codes: tuple[str, ...]) -> None:
    pairs = np.sort(
        find_similar_hashes(pack_hashes(pa.chunked_array([codes])), None, choose_limits(True, len(paths) ** 2 / 2)),
        order="distance",
    )
    correlations = np.array(
        [
            correlate_images(*(Image.open(paths[pair[end]]).convert("RGB") for end in ("first", "second")))
            for pair in pairs
        ]
    )
    confirmed = correlations >= MIN_CORRELATION
    alone = pairs["distance"] <= choose_limits(False, len(paths) ** 2 / 2).all
    print_table(
        f"pairs of {len(paths):,} photographs",
        [
            Row("candidates", float(len(pairs))),
            Row(
                "highest correlation of others than the confirmed ones", float(correlations[~confirmed].max(initial=-1))
            ),
            Row("confirmed by pixels", float(confirmed.sum())),
            Row("by hashes alone", float(alone.sum())),
        ],
    )
    for pair, correlation in zip(pairs[confirmed | alone], correlations[confirmed | alone], strict=True):
        first, second = paths[pair["first"]], paths[pair["second"]]
        print(f"{pair['distance']} bits, correlation {correlation:.2f}: {first} {second}")


if __name__ == "__main__":
    main()
