import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tflite
import torch
from PIL import Image

from common.errors import UserError
from labeler.labeling.label import to_teacher_input
from labeler.teacher import tflite as importer
from labeler.teacher.model import AttentionTeacher
from labeler.teacher.tflite import read_tflite
from labeler.teacher.weights import load_teacher

LOGITS, NORMALIZED = 1582, 1586  # tensors of the published file: sum of the branches, map divided by its maximum
OPERATORS_FIELD = 10  # offset of a subgraph's operators in its flatbuffer table


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Path:
    return shared_data / "attention-center" / "center.tflite"


@pytest.fixture(scope="module")
def teacher(published: Path) -> AttentionTeacher:
    teacher = AttentionTeacher()
    teacher.load_state_dict(read_tflite(published.read_bytes()))
    return teacher.eval()


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> list[torch.Tensor]:
    """A large and a small square photograph as teacher inputs, float [3, 480, 640] in [0, 1]."""
    paths = [
        shared_data / "osie" / "data" / "stimuli" / "1001.jpg",
        sorted((shared_data / "imagenette128" / "val").rglob("*.JPEG"))[0],
    ]
    images = [torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) for path in paths]
    return [to_teacher_input(image, 1).float() / 255 for image in images]


@pytest.fixture(scope="module")
def reference(published: Path, photographs: list[torch.Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits and normalized maps of the photographs, as LiteRT computes them."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    with pytest.warns(UserWarning, match="preserve_all_tensors"):
        interpreter = litert.Interpreter(str(published), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    inputs = {detail["name"].partition(":")[0]: detail["index"] for detail in interpreter.get_input_details()}
    outputs = []
    for photograph in photographs:
        interpreter.set_tensor(inputs["image"], photograph.permute(1, 2, 0).contiguous().numpy()[None])
        interpreter.set_tensor(inputs["filename"], np.array("photograph", dtype=object))
        interpreter.invoke()
        outputs.append((interpreter.get_tensor(LOGITS)[0], interpreter.get_tensor(NORMALIZED)[0]))
    return outputs


def test_logits_and_maps_match_litert_on_real_photographs(teacher, photographs, reference) -> None:
    for photograph, (expected_logits, expected_map) in zip(photographs, reference, strict=True):
        with torch.inference_mode():
            logits = teacher.logits(photograph[None])[0].numpy()
            maps, maxima = teacher.predict(photograph[None])
        assert expected_logits.shape == logits.shape == (480, 640)
        assert np.ptp(expected_logits) > 3
        assert np.abs(logits - expected_logits).max() < 0.02
        scale = maxima.item() / (maxima.item() + 1e-6)  # the file's network divides by maximum + 1e-6
        assert np.abs(maps[0].numpy() * scale - expected_map).max() < 1e-3


def test_state_is_complete_and_float32(published: Path) -> None:
    state = read_tflite(published.read_bytes())
    assert state.keys() == AttentionTeacher().state_dict().keys()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_converted_file_gives_the_same_logits(published: Path, teacher, photographs, tmp_path: Path) -> None:
    target = tmp_path / "teacher.safetensors"
    command = [sys.executable, "-m", "labeler.teacher.tflite", str(published), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=True)
    assert str(target) in done.stdout
    converted = load_teacher(str(target))
    with torch.inference_mode():
        assert torch.allclose(converted.logits(photographs[0][None]), teacher.logits(photographs[0][None]), atol=1e-4)


def test_missing_source_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tflite", str(tmp_path / "absent.tflite"), str(tmp_path / "out.safetensors")])
    with pytest.raises(UserError, match=r"absent\.tflite.*No such file"):
        importer.main()


def test_unwritable_target_is_a_user_error(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "absent" / "out.safetensors"
    monkeypatch.setattr(sys, "argv", ["tflite", str(published), str(target)])
    with pytest.raises(UserError, match=r"out\.safetensors"):
        importer.main()


@pytest.mark.parametrize("content", [b"", b"text", b"{}", bytes(100), b"\x1c\0\0\0TFL"])
def test_file_of_another_format_is_a_user_error(content: bytes) -> None:
    with pytest.raises(UserError, match="expected a TensorFlow Lite file"):
        read_tflite(content)


def test_file_without_a_graph_is_a_user_error() -> None:
    with pytest.raises(UserError, match="damaged"):
        read_tflite(bytes(4) + b"TFL3" + bytes(100))


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.7, 0.99, 0.999999])
def test_truncated_file_is_a_user_error(published: Path, share: float) -> None:
    content = published.read_bytes()
    with pytest.raises(UserError, match="damaged"):
        read_tflite(content[: int(share * len(content))])


def test_file_with_fewer_layers_is_a_user_error(published: Path) -> None:
    content = bytearray(published.read_bytes())
    table = tflite.Model.GetRootAs(content, 0).Subgraphs(0)._tab
    length = table.Vector(table.Offset(OPERATORS_FIELD)) - 4
    operators = int.from_bytes(content[length : length + 4], "little")
    content[length : length + 4] = (operators // 2).to_bytes(4, "little")
    with pytest.raises(UserError, match="another network"):
        read_tflite(bytes(content))


@pytest.mark.parametrize("length", [577, 1 << 30])
def test_weights_of_a_wrong_length_are_a_user_error(published: Path, length: int) -> None:
    content = bytearray(published.read_bytes())
    model = tflite.Model.GetRootAs(content, 0)
    table = next(model.Buffers(i) for i in range(model.BuffersLength()) if model.Buffers(i).DataLength() == 576)._tab
    start = table.Vector(table.Offset(4)) - 4
    content[start : start + 4] = length.to_bytes(4, "little")
    with pytest.raises(UserError):
        read_tflite(bytes(content))
