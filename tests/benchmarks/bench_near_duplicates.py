"""The search for near-duplicates among the hashes of ImageNet's number of images.

Random hashes would be too easy, so each is made from the hash of a photograph, by inverting each bit with a probability
of 0.35. Copies of 1,000 images are planted, whose bits differ with probabilities from 0.05 at low to 0.3 at high
frequencies, as those of copies cropped by 2.5 % on each side do; half of them are mirrored. The hash of a picture in
the size of the teacher's input is timed too: labeling computes it in addition.
"""

import argparse
import time

import numpy as np
import pyarrow as pa
import torch
from timing import SHARED_DATA, Row, peak_memory, print_table, require_path, time_cases

from common.images import decode_jpeg
from common.parallel import available_cores
from labeler.labeling.label import to_teacher_input
from labeler.labeling.perceptual_hash import hash_images, hash_jpeg
from labeler.near_duplicates.find import choose_limits
from labeler.near_duplicates.hashes import pack_hashes
from labeler.near_duplicates.search import find_similar_hashes

IMAGES, COPIES = 1_281_167, 1000
NOISE = 0.35  # probability that a bit is inverted
COPY_NOISE = 0.05, 0.30  # the same for copies, at the lowest and at the highest frequencies
MIRRORED_WORDS = slice(2, 4)  # see `pack_hashes`
IMAGES_AT_ONCE = 10_000
BAR_SECONDS = 900


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES, help=f"number of hashes (default: {IMAGES})")
    parser.add_argument("--threads", type=int, default=available_cores(), help="default: one per core")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    jpegs = [path.read_bytes() for path in sorted(require_path(SHARED_DATA / "imagenet-sample").rglob("*.JPEG"))]
    pixels = decode_jpeg(jpegs[0])
    image, size = to_teacher_input(pixels, 1)[None], (pixels.shape[1], pixels.shape[2])
    seconds = time_cases(50, one=lambda: hash_images(image, [size]))["one"]
    texts = [text for text in (hash_jpeg(jpeg, 1) for jpeg in jpegs) if text]
    hashes = make_hashes(pack_hashes(pa.chunked_array([texts])), arguments.images)
    memory, wall, cpu = peak_memory(), time.monotonic(), time.process_time()
    pairs = find_similar_hashes(hashes, None, choose_limits(True, len(hashes) ** 2 / 2), arguments.threads)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    planted = (pairs["first"] < COPIES) & (pairs["second"] == arguments.images - COPIES + pairs["first"])
    print_table(
        f"near-duplicates of {arguments.images:,} images, {arguments.threads} threads",
        [
            Row("hash of one image on a CPU", [1e3 * duration for duration in seconds], "ms"),
            Row("search", wall, "s", at_most=BAR_SECONDS),
            Row("    CPU", cpu, "s"),
            Row("    CPU for each pair", 2e9 * cpu / arguments.images**2, "ns"),
            Row("    peak memory", peak_memory(), "GB", at_most=1.5),
            Row("    memory before", memory, "GB"),
            Row("planted copies found", float(planted.sum()), f"of {COPIES:,}", at_least=0.99 * COPIES),
            Row("other candidates", float(len(pairs) - planted.sum()), "pairs"),
        ],
    )


def make_hashes(photographs: np.ndarray, images: int) -> np.ndarray:
    """Return packed hashes of images; the last ones are copies of the first ones."""
    generator = np.random.default_rng(0)
    hashes = photographs[generator.integers(0, len(photographs), images)] ^ draw_bits(generator, images, NOISE)
    hashes[-COPIES:] = hashes[:COPIES] ^ draw_bits(generator, COPIES, spread_noise())
    hashes[-COPIES::2, MIRRORED_WORDS] = ~hashes[-COPIES::2, MIRRORED_WORDS]
    return hashes


def spread_noise() -> np.ndarray:
    """Return the probability that a bit of a copy is inverted, for each bit of packed hashes in memory order [256]."""
    coefficients = np.arange(256)
    single = pa.chunked_array([[f"{1 << number:064x}" for number in coefficients.tolist()]])
    positions = np.unpackbits(pack_hashes(single).view(np.uint8), axis=1).argmax(1)
    noise = np.empty(256)
    noise[positions] = np.interp(coefficients // 16 + coefficients % 16, [0, 30], COPY_NOISE)
    return noise


def draw_bits(generator: np.random.Generator, images: int, probability: float | np.ndarray) -> np.ndarray:
    """Return words, uint64 [images, 4], whose bits are set with this probability, or these [256]."""
    parts = [
        np.packbits(generator.random((min(IMAGES_AT_ONCE, images - start), 256), np.float32) < probability, axis=1)
        for start in range(0, images, IMAGES_AT_ONCE)
    ]
    return np.concatenate(parts).view(np.uint64)


if __name__ == "__main__":
    main()
