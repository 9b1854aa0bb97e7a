"""Tests that errors about files which are no checkpoints say in plain words what they are."""

import fractions
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from common.errors import UserError
from common.storage.torch_files import load_torch_file

STATE = {"model": {"weights": torch.arange(1000.0)}, "step": 7}


def saved(state: object, save: Callable[..., Any] = torch.save, **options: Any) -> bytes:
    file = io.BytesIO()
    save(state, file, **options)
    return file.getvalue()


def image(image_format: str) -> bytes:
    return saved(None, lambda _, file: Image.new("RGB", (40, 30), "red").save(file, image_format))


def archive(**files: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return file.getvalue()


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


CHECKPOINT = saved(STATE)
OLD_FORMAT = saved(STATE, _use_new_zipfile_serialization=False)
FILES = {
    "empty": (b"", "an empty file"),
    "cut in half": (CHECKPOINT[: len(CHECKPOINT) // 2], f"only the first {len(CHECKPOINT) // 2:,} bytes of one"),
    "without its last byte": (CHECKPOINT[:-1], f"only the first {len(CHECKPOINT) - 1:,} bytes of one"),
    "first bytes": (CHECKPOINT[:30], "only the first 30 bytes of one"),
    "damaged": (flipped(CHECKPOINT, CHECKPOINT.index(b"\x80\x02}")), "a damaged one"),
    "old format cut in half": (OLD_FORMAT[: len(OLD_FORMAT) // 2], "a damaged file, or the pickle of another program"),
    "pickle": (pickle.dumps(fractions.Fraction(1, 2)), "a damaged file, or the pickle of another program"),
    "pointer of Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "text that begins with 'version https://git-lfs.github.com/spec/'",
    ),
    "text cut within a character": (("e" * 511 + "é").encode(), f"text that begins with '{'e' * 40}'"),
    "PNG": (image("PNG"), "an image (PNG)"),
    "JPEG": (image("JPEG"), "an image (JPEG)"),
    "zip": (archive(name="content"), "a zip archive of another program"),
    "safetensors": (safetensors.torch.save(STATE["model"]), "a safetensors file"),
    "zeros": (bytes(1000), "another kind of file, or a damaged one"),
    "random": (
        torch.arange(200, dtype=torch.uint8).flip(0).numpy().tobytes(),
        "another kind of file, or a damaged one",
    ),
}


def load_error(location: str, file: Path | bytes) -> str:
    with pytest.raises(UserError) as error:
        load_torch_file(location, file)
    return str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_error_says_what_the_file_is(name: str, tmp_path: Path) -> None:
    content, found = FILES[name]
    expected = (
        f"RUN/last: expected a checkpoint or weights, written by torch.save, found {found}; name another file, or "
        "restore this one"
    )
    (tmp_path / "file").write_bytes(content)
    assert load_error("RUN/last", content) == load_error("RUN/last", tmp_path / "file") == expected


@pytest.mark.filterwarnings("ignore")
def test_programs_of_torch_are_told_from_checkpoints() -> None:
    network = nn.Linear(2, 2)
    script = saved(torch.jit.script(network), torch.jit.save)
    assert "found a TorchScript program; name" in load_error("x", script)
    program = saved(torch.export.export(network, (torch.zeros(1, 2),)), torch.export.save)
    assert "found a zip archive of another program; name" in load_error("x", program)


def test_pickled_objects_are_refused_with_their_class() -> None:
    assert load_error("x", saved(nn.Linear(2, 2))) == (
        "x: expected tensors alone, found a pickled torch.nn.modules.linear.Linear, which could run any program; save "
        "the model's state_dict() instead"
    )


def test_folders_and_files_that_do_not_exist_are_named(tmp_path: Path) -> None:
    assert "found a folder; name another file" in load_error("x", tmp_path)
    assert "found a file that cannot be read (No such file or directory)" in load_error("x", tmp_path / "absent")


@pytest.mark.parametrize("content", [CHECKPOINT, OLD_FORMAT], ids=["new format", "old format"])
def test_checkpoints_are_loaded_from_a_path_and_from_their_content(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    for file in (content, tmp_path / "file"):
        state = load_torch_file("x", file)
        assert state["step"] == 7
        assert torch.equal(state["model"]["weights"], STATE["model"]["weights"])
