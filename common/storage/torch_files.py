"""Reading of files that `torch.save` wrote, without trusting them, with errors that say what else a file is."""

import codecs
import io
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from PIL import Image

from common.errors import UserError

UNSUPPORTED_CLASS = re.compile(r"Unsupported global: GLOBAL (\S+)")  # in torch's refusal to unpickle a class
ZIP_START, PICKLE_START = b"PK\x03\x04", b"\x80"
SAMPLE_SIZE = 512  # bytes at the beginning of a file by which text is recognized
QUOTE_LENGTH = 40  # characters of a text that an error quotes


def load_torch_file(location: str, file: Path | bytes, advice: str = "name another file, or restore this one") -> Any:
    """Load a file that `torch.save` wrote, with tensors on the CPU, without running code that it may contain.

    Args:
        location: name of the file for error messages.
        file: its path or its content.
        advice: what to do about another or a damaged file, for error messages.

    Raises UserError if it is another or a damaged file, or contains pickled objects other than tensors and plain
    values.
    """
    try:
        return torch.load(io.BytesIO(file) if isinstance(file, bytes) else file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on damaged files, with advice to load untrusted ones anyway
        if unsupported := UNSUPPORTED_CLASS.search(str(error)):
            raise UserError(
                f"{location}: expected tensors alone, found a pickled {unsupported[1]}, which could run any program; "
                "save the model's state_dict() instead"
            ) from None
        raise UserError(
            f"{location}: expected a checkpoint or weights, written by torch.save, found {_describe_file(file)}; "
            f"{advice}"
        ) from None


def _describe_file(file: Path | bytes) -> str:
    """Return what a file is that `torch.load` cannot read, with an article."""
    if isinstance(file, bytes):
        return _describe_content(io.BytesIO(file))
    if file.is_dir():
        return "a folder"
    try:
        with file.open("rb") as opened:
            return _describe_content(opened)
    except OSError as error:
        return f"a file that cannot be read ({error.strerror})"


def _describe_content(file: BinaryIO) -> str:
    start = file.read(SAMPLE_SIZE)
    if not start:
        return "an empty file"
    if start.startswith(ZIP_START):  # the format of torch.save
        return _describe_archive(file)
    if start.startswith(PICKLE_START):
        return "a damaged file, or the pickle of another program"
    if start[8:9] == b"{":  # after the size of this header
        return "a safetensors file"
    if image := _image_format(file):
        return f"an image ({image})"
    if text := _decode_text(start):
        return f"text that begins with {text[:QUOTE_LENGTH]!r}"
    return "another kind of file, or a damaged one"


def _describe_archive(file: BinaryIO) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):  # the list of the archive's files is at its end
        return f"only the first {file.seek(0, io.SEEK_END):,} bytes of one"
    if any("/code/" in name for name in names):
        return "a TorchScript program"
    if any(name.endswith("/data.pkl") for name in names):
        return "a damaged one"
    return "a zip archive of another program"


def _decode_text(start: bytes) -> str | None:
    """Return the beginning of a text file, whose last character may be cut off; None if it is not text."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return None
    return text if all(character.isprintable() or character.isspace() for character in text) else None


def _image_format(file: BinaryIO) -> str | None:
    try:
        return Image.open(file).format
    except (OSError, ValueError, SyntaxError):
        return None
