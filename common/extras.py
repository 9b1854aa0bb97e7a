"""Packages that only some programs need: the extras of pyproject.toml."""

import importlib

from common.errors import UserError, describe_error

EXTRAS = {
    "eval": ("imagecorruptions", "matplotlib"),
    "export": ("onnx", "onnxscript"),
    "teacher": ("tflite",),
}


def require_extra(extra: str, what: str) -> None:
    """Raises UserError, which says `what` needs it, where a package of an extra is missing or cannot be loaded."""
    for package in EXTRAS[extra]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(
                f"{what} needs the package {package} ({describe_error(error)}); in the project's checkout: "
                f"pip install --constraint constraints.txt '.[{extra}]'"
            ) from None
