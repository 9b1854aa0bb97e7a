"""ImageNet-C: the published folders, or the same corruptions made on the fly from clean images.

On the fly as its authors did: the centre of the image at 224 px, corrupted, saved as JPEG at quality 85.
"""

import zlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import Tensor

from common.errors import UserError
from trainer.data.crops import center_crop
from trainer.evaluate.images.image_sets import FolderImages, ImageSet, text_checksum, through_jpeg

SIDE, QUALITY = 224, 85
ALEXNET = {  # top-1 errors (Hendrycks and Dietterich 2019), which mCE is relative to
    "gaussian_noise": 0.886,
    "shot_noise": 0.894,
    "impulse_noise": 0.923,
    "defocus_blur": 0.820,
    "glass_blur": 0.826,
    "motion_blur": 0.786,
    "zoom_blur": 0.798,
    "snow": 0.867,
    "frost": 0.827,
    "fog": 0.819,
    "brightness": 0.565,
    "contrast": 0.853,
    "elastic_transform": 0.646,
    "pixelate": 0.718,
    "jpeg_compression": 0.607,
}
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
CORRUPTIONS = (*ALEXNET, *EXTRA)
SEEDED = ("glass_blur", "impulse_noise")  # take their seed as an argument; the others draw from numpy's global state


class CorruptedImages:
    """Clean images under a corruption. What is drawn hangs on the seed, the corruption and the image's name alone."""

    framed = True

    def __init__(self, clean: ImageSet, corruption: str, severity: int, seed: int) -> None:
        self._clean, self._corruption, self._severity, self._seed = clean, corruption, severity, seed
        self.name = set_name(corruption, severity)
        self.names, self.labels, self.classes = clean.names, clean.labels, clean.classes
        made_by = f"imagecorruptions-imaug {version('imagecorruptions-imaug')}"
        self.identity = text_checksum(clean.identity, corruption, str(severity), str(seed), made_by)

    def read(self, index: int) -> Tensor:
        pixels = center_crop(self._clean.read(index), SIDE).permute(1, 2, 0).numpy()
        name = self.names[index].encode("utf-8", "surrogateescape")
        seed = [self._seed, self._severity, zlib.crc32(self._corruption.encode()), zlib.crc32(name)]
        return through_jpeg(corrupt(pixels, self._corruption, self._severity, seed), QUALITY)


def corrupt(pixels: np.ndarray, corruption: str, severity: int, seed: Sequence[int]) -> np.ndarray:
    """uint8 [H, W, 3] -> alike. Seeds numpy's global state: call it in processes, not in threads."""
    import cv2
    import imagecorruptions  # numba takes seconds to import

    cv2.setNumThreads(0)  # its threads would not survive a fork, and readers are processes already
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    np.random.seed(number)
    options = {"seed": number} if corruption in SEEDED else {}
    changed: np.ndarray = imagecorruptions.corrupt(pixels, severity, corruption, **options)
    return changed


def set_name(corruption: str, severity: int) -> str:
    """How a report calls a set of corrupted images."""
    return f"imagenet-c {corruption} {severity}"


def select_corruptions(wanted: Sequence[str], available: Sequence[str], where: str) -> list[str]:
    """The corruptions to measure: those wanted or, by default, all that are available.

    Raises UserError where one is unknown, or missing: by default the 15 of mCE are expected.
    """
    if unknown := [name for name in wanted if name not in CORRUPTIONS]:
        raise UserError(f"--corruptions {', '.join(unknown)}: expected some of {', '.join(CORRUPTIONS)}")
    if missing := [name for name in (wanted or ALEXNET) if name not in available]:
        raise UserError(
            f"{where}: {', '.join(missing)} missing; expected {'them' if wanted else 'the 15 corruptions of mCE'}, "
            f"found {', '.join(available) or 'none'}; complete it, or name those that are there with --corruptions"
        )
    return [name for name in CORRUPTIONS if name in (wanted or available)]


def open_imagenet_c(
    folder: str, wanted: Sequence[str], severities: Sequence[int]
) -> dict[tuple[str, int], FolderImages]:
    """The sets of ImageNet-C as published. Raises UserError where one is missing or of other images than the rest."""
    folder = folder.rstrip("/")
    available = [name for name in CORRUPTIONS if _exists(f"{folder}/{name}")]
    sets = {
        (name, severity): FolderImages(
            "--imagenet-c", f"{folder}/{name}/{severity}", set_name(name, severity), framed=True
        )
        for name in select_corruptions(wanted, available, f"--imagenet-c {folder}")
        for severity in severities
    }
    first = next(iter(sets.values()))
    for found in sets.values():
        if found.names != first.names:
            differ = sorted(set(found.names) ^ set(first.names))
            raise UserError(
                f"--imagenet-c {folder}: {found.name} and {first.name} hold different images, such as {differ[0]}; "
                "expected the same in every corruption and severity"
            )
    return sets


def corrupt_images(
    clean: ImageSet, wanted: Sequence[str], severities: Sequence[int], seed: int
) -> dict[tuple[str, int], CorruptedImages]:
    """The same sets, made on the fly."""
    return {
        (name, severity): CorruptedImages(clean, name, severity, seed)
        for name in select_corruptions(wanted, CORRUPTIONS, "--val")
        for severity in severities
    }


def _exists(folder: str) -> bool:
    """Is there such a folder, or are there objects below it?"""
    if "://" in folder:
        from common.storage import s3_client

        place = s3_client.parse_location(folder)
        return bool(s3_client.list_page(s3_client.S3Location(place.bucket, f"{place.key}/")).get("Contents"))
    return Path(folder).is_dir()
