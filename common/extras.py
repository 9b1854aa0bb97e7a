"""Check for packages that only some programs need: the optional dependencies of pyproject.toml."""

import importlib

from common.errors import UserError, describe_error

EXTRAS = {
    "demo": ("skimage",),
    "eval": ("cv2", "imagecorruptions", "matplotlib"),
    "export": ("onnx", "onnxscript"),
    "teacher": ("tflite",),
}


def require_extra(extra: str, feature: str) -> None:
    """Check that all packages of an extra can be imported.

    Raises UserError that says that `feature` needs the first missing package, and how to install it.
    """
    for package in EXTRAS[extra]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"{feature} needs the package {package} ({describe_error(error)}); in the project's checkout: "
                f"pip install --constraint constraints.txt '.[{extra}]'"
            ) from None
