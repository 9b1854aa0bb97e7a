"""ImageNet-C: the published folders, or the same corruptions applied to clean images while they are read.

Clean images are corrupted as the authors of ImageNet-C did: center crop at 224 px, corruption, JPEG of quality 85.
"""

import zlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import Tensor

from common.errors import UserError
from trainer.data.crops import center_crop
from trainer.evaluate.images.image_sets import FolderImages, ImageSet, compress_jpeg, text_checksum

CROP_SIZE, JPEG_QUALITY = 224, 85
ALEXNET_ERRORS = {  # top-1 errors (Hendrycks and Dietterich 2019), which mCE is relative to
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
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
CORRUPTIONS = (*ALEXNET_ERRORS, *EXTRA_CORRUPTIONS)
SEED_ARGUMENT = ("glass_blur", "impulse_noise")  # these take a seed; the others draw from numpy's global state


class CorruptedImages:
    """Images of a clean set under a corruption.

    What is drawn at random depends only on the seed, the corruption, its severity and the image's name.
    """

    whole_frame = True

    def __init__(self, clean: ImageSet, corruption: str, severity: int, seed: int) -> None:
        self._clean, self._corruption, self._severity, self._seed = clean, corruption, severity, seed
        self.name = set_name(corruption, severity)
        self.names, self.labels, self.classes = clean.names, clean.labels, clean.classes
        library = f"imagecorruptions-imaug {version('imagecorruptions-imaug')}"
        self.identity = text_checksum(clean.identity, corruption, str(severity), str(seed), library)

    def read(self, index: int) -> Tensor:
        """Return the pixels of a corrupted image, uint8 [3, 224, 224]. Raises ImageFailure."""
        pixels = center_crop(self._clean.read(index), CROP_SIZE).permute(1, 2, 0).numpy()
        name = self.names[index].encode("utf-8", "surrogateescape")
        seed = [self._seed, self._severity, zlib.crc32(self._corruption.encode()), zlib.crc32(name)]
        return compress_jpeg(corrupt(pixels, self._corruption, self._severity, seed), JPEG_QUALITY)


def corrupt(pixels: np.ndarray, corruption: str, severity: int, seed: Sequence[int]) -> np.ndarray:
    """Corrupt an image, uint8 [H, W, 3], and return one of the same shape.

    Sets numpy's global random state: call it in several processes, not in several threads.
    """
    import cv2
    import imagecorruptions  # imports numba, which takes seconds

    cv2.setNumThreads(0)  # OpenCV's threads would not survive a fork, and images are read by processes anyway
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    np.random.seed(number)
    options = {"seed": number} if corruption in SEED_ARGUMENT else {}
    corrupted: np.ndarray = imagecorruptions.corrupt(pixels, severity, corruption, **options)
    return corrupted


def set_name(corruption: str, severity: int) -> str:
    """Return the name of a set of corrupted images, for reports and file names."""
    return f"imagenet-c {corruption} {severity}"


def select_corruptions(requested: Sequence[str], available: Sequence[str], where: str) -> list[str]:
    """Return the corruptions to measure: those requested or, by default, all that are available.

    Args:
        requested: names of --corruptions; empty for the default.
        available: names of the corruptions that the data have.
        where: the data, for error messages.

    Raises UserError if a requested one is unknown or not available or, by default, if one of the 15 of mCE is missing.
    """
    if unknown := [name for name in requested if name not in CORRUPTIONS]:
        raise UserError(f"--corruptions {', '.join(unknown)}: expected some of {', '.join(CORRUPTIONS)}")
    if missing := [name for name in (requested or ALEXNET_ERRORS) if name not in available]:
        expected = "those named with --corruptions" if requested else "the 15 corruptions of mCE"
        raise UserError(
            f"{where} lacks {', '.join(missing)}: expected {expected}, found {', '.join(available) or 'none'}; "
            "complete the data, or name available corruptions with --corruptions"
        )
    return [name for name in CORRUPTIONS if name in (requested or available)]


def open_imagenet_c(
    folder: str, requested: Sequence[str], severities: Sequence[int]
) -> dict[tuple[str, int], FolderImages]:
    """Open the sets of ImageNet-C as published, by corruption and severity.

    Raises UserError if a set is missing, or does not hold the same images as the others.
    """
    folder = folder.rstrip("/")
    available = [name for name in CORRUPTIONS if _folder_exists(f"{folder}/{name}")]
    sets = {
        (name, severity): FolderImages(
            "--imagenet-c", f"{folder}/{name}/{severity}", set_name(name, severity), whole_frame=True
        )
        for name in select_corruptions(requested, available, f"--imagenet-c {folder}")
        for severity in severities
    }
    first = next(iter(sets.values()))
    for images in sets.values():
        if images.names != first.names:
            different = sorted(set(images.names) ^ set(first.names))
            raise UserError(
                f"--imagenet-c {folder}: {images.name} and {first.name} hold different images, such as "
                f"{different[0]}; expected the same in every corruption and severity"
            )
    return sets


def corrupt_images(
    clean: ImageSet, requested: Sequence[str], severities: Sequence[int], seed: int
) -> dict[tuple[str, int], CorruptedImages]:
    """Return sets of the clean images under each corruption and severity; images are corrupted when they are read."""
    return {
        (name, severity): CorruptedImages(clean, name, severity, seed)
        for name in select_corruptions(requested, CORRUPTIONS, "--val")
        for severity in severities
    }


def _folder_exists(folder: str) -> bool:
    """Return whether there is a local folder, or any object below an S3 prefix."""
    if "://" in folder:
        from common.storage import s3_client  # boto3 takes a third of a second to import

        location = s3_client.parse_location(folder)
        return bool(s3_client.list_page(s3_client.S3Location(location.bucket, f"{location.key}/")).get("Contents"))
    return Path(folder).is_dir()
