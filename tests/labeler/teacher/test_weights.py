import http.client
import http.server
import importlib
import py_compile
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from common.errors import UserError
from labeler.teacher import weights
from labeler.teacher.model import INPUT_SIZE, AttentionTeacher
from labeler.teacher.weights import CustomTeacher, check_nonnegative_maps, find_teacher, load_teacher

IMAGES = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
FACTORIES = """
import torch
from torch import nn


class Brightness(nn.Module):
    def __init__(self, gain=2.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, images):
        return images.mean(1) * self.gain


class Channels(Brightness):
    def forward(self, images):
        return super().forward(images)[:, None]


class Flat(Brightness):
    def forward(self, images):
        return images.mean((1, 2, 3))


class Broken(Brightness):
    def forward(self, images):
        raise RuntimeError("no weights\\n and no file")


class OnlyFirst(Brightness):
    def forward(self, images):
        return super().forward(images)[:1]


class Twice(Brightness):
    def forward(self, images):
        return super().forward(images).repeat(2, 1, 1)


def other_gain():
    return Brightness(3.0)


def fails():
    raise FileNotFoundError("weights.pt")


def wants_an_argument(path):
    return Brightness()


def number():
    return 3
"""


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return AttentionTeacher().state_dict()


@pytest.fixture
def saved(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(state, path)
    return path


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an importable module of teacher factories."""
    (tmp_path / "some_factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_factories", raising=False)
    return "some_factories"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of the published weights in the cache, which is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "imagenet-attn" / "center.tflite"


class Server(http.server.ThreadingHTTPServer):
    """Server that answers every request with `content`, announced as `length` bytes."""

    content, length, requests = b"", 0, 0


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.length))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Server that replaces GitHub."""
    with Server(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(weights, "PUBLISHED_URL", f"http://127.0.0.1:{server.server_port}/center.tflite")
        monkeypatch.setenv("no_proxy", "*")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_safetensors_file_is_loaded_in_evaluation_mode(saved: Path, state) -> None:
    teacher = load_teacher(str(saved))
    assert not teacher.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in teacher.state_dict().items())


def test_identity_is_the_name_and_checksum_of_the_file(saved: Path, tmp_path: Path) -> None:
    identity = find_teacher(str(saved)).identity
    renamed = saved.rename(tmp_path / "other.safetensors")
    assert identity.name == "mine"
    assert find_teacher(str(renamed)).identity.name == "other"
    assert find_teacher(str(renamed)).identity.sha256 == identity.sha256
    assert identity.id == f"mine@{identity.sha256[:12]}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_dtypes_become_float32(state, dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    safetensors.torch.save_file({name: tensor.to(dtype) for name, tensor in state.items()}, path)
    teacher = load_teacher(str(path))
    assert {tensor.dtype for tensor in teacher.state_dict().values()} == {torch.float32}
    assert all(torch.equal(tensor, state[name].to(dtype).float()) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("name", ["text.safetensors", "text.tflite", "text.bin"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"\xff" * 64, b"PK\x03\x04" + bytes(60)])
def test_file_without_weights_is_a_user_error(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"--teacher .*{name}: expected a \.tflite or \.safetensors file"):
        find_teacher(str(path))


def test_truncated_safetensors_file_is_a_user_error(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"expected a \.tflite or \.safetensors file of teacher weights"):
        find_teacher(str(saved))


def test_truncated_tflite_file_is_a_user_error(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "center.tflite"
    path.write_bytes((shared_data / "attention-center" / "center.tflite").read_bytes()[:1_000_000])
    with pytest.raises(UserError, match=r"--teacher .*center\.tflite: .*damaged"):
        find_teacher(str(path))


def test_weights_of_another_network_are_a_user_error_that_names_a_tensor(tmp_path: Path) -> None:
    path = tmp_path / "linear.safetensors"
    safetensors.torch.save_file(torch.nn.Linear(3, 4).state_dict(), path)
    with pytest.raises(
        UserError, match=r"another network: .* tensors with an unexpected name or shape, the first is bias"
    ):
        find_teacher(str(path))


def test_missing_tensor_and_wrong_shape_are_user_errors(state, tmp_path: Path) -> None:
    path, name = tmp_path / "odd.safetensors", "stem.0.0.weight"
    safetensors.torch.save_file({key: tensor for key, tensor in state.items() if key != name}, path)
    with pytest.raises(UserError, match=r"1 tensor with .*, the first is stem\.0\.0\.weight .*found None"):
        find_teacher(str(path))
    safetensors.torch.save_file({**state, name: torch.zeros(16, 3, 5, 5)}, path)
    with pytest.raises(UserError, match=r"found \(16, 3, 5, 5\)"):
        find_teacher(str(path))


@pytest.mark.parametrize("name", ["absent.safetensors", "absent.tflite", "C:absent.tflite", "", "salicon", "/tmp"])
def test_unknown_name_is_a_user_error(name: str) -> None:
    with pytest.raises(UserError, match=r"expected bundled, attention-center, a \.tflite or \.safetensors file that"):
        find_teacher(name)


def test_maps_of_a_custom_teacher_are_divided_by_their_maximum(factories: str) -> None:
    teacher = load_teacher(f"{factories}:Brightness")
    assert not teacher.training
    maps, maxima = teacher.predict(IMAGES)
    brightness = IMAGES.mean(1)
    assert torch.allclose(maxima, 2 * brightness.amax((1, 2)))
    assert torch.allclose(maps, brightness / brightness.max())
    assert torch.equal(teacher(IMAGES), maps)


def test_maps_of_a_custom_teacher_may_have_a_channel_dimension(factories: str) -> None:
    maps, channels = (load_teacher(f"{factories}:{name}").predict(IMAGES)[0] for name in ("Brightness", "Channels"))
    assert torch.equal(maps, channels)


def test_checksum_of_a_factory_covers_its_weights_and_its_source(factories: str, tmp_path: Path) -> None:
    name = f"{factories}:Brightness"
    first = find_teacher(name).identity
    assert find_teacher(name).identity == first
    assert find_teacher(f"{factories}:other_gain").identity.sha256 != first.sha256
    (tmp_path / f"{factories}.py").write_text(FACTORIES + "\n# another version\n")
    importlib.invalidate_caches()
    sys.modules.pop(factories)
    assert find_teacher(name).identity.sha256 != first.sha256


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("fails", "cannot be created: FileNotFoundError: weights.pt"),
        ("wants_an_argument", "cannot be created: TypeError"),
        ("absent", "cannot be created: AttributeError"),
        ("", "cannot be created: AttributeError"),
        ("number", "expected the factory to return a torch.nn.Module, found int"),
        ("Broken", "fails on gray test images: RuntimeError: no weights and no file$"),
        ("Flat", "fails on gray test images: ValueError: expected maps"),
        ("OnlyFirst", "fails on gray test images: ValueError: expected one map for each image, found 1 for 2 images$"),
        ("Twice", "fails on gray test images: ValueError: expected one map for each image, found 4 for 2 images$"),
    ],
)
def test_unusable_factory_is_a_user_error(factories: str, factory: str, message: str) -> None:
    with pytest.raises(UserError, match=f"--teacher {factories}:{factory}: {message}"):
        find_teacher(f"{factories}:{factory}")


def test_negative_maps_are_accepted_except_as_labels() -> None:
    for name in ("LogDensity", "Brightness"):
        source = find_teacher(f"tests.support.simple_teachers:{name}")
        if name == "Brightness":
            check_nonnegative_maps(source)
        else:
            with pytest.raises(
                UserError, match=r"expected maps that are not negative, found a map whose maximum is -1\.69"
            ):
                check_nonnegative_maps(source)


def test_factory_in_an_absent_module_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"--teacher absent\.module:make: cannot be created: ModuleNotFoundError"):
        find_teacher("absent.module:make")


def test_factory_without_source_file_is_identified_by_its_weights(tmp_path: Path, monkeypatch) -> None:
    source = tmp_path / "compiled_factories.py"
    source.write_text(FACTORIES)
    py_compile.compile(str(source), str(tmp_path / "compiled_factories.pyc"))
    source.unlink()
    monkeypatch.syspath_prepend(tmp_path)
    identity, other = (find_teacher(f"compiled_factories:{name}").identity for name in ("Brightness", "other_gain"))
    assert identity.name == "compiled_factories:Brightness"
    assert identity.sha256 != other.sha256


def test_negative_maps_are_not_inverted() -> None:
    class LogDensity(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean(1).log() - 1

    maps, _ = CustomTeacher(LogDensity()).predict(IMAGES)
    brightness = IMAGES.mean(1)
    assert maps.flatten().argmax() == brightness.flatten().argmax()


def test_bundled_teacher_needs_no_network_connection(server: Server) -> None:
    maps, _ = load_teacher("bundled").predict(torch.rand(1, 3, *INPUT_SIZE))
    assert maps.shape == (1, *INPUT_SIZE)
    assert server.requests == 0
    assert find_teacher("bundled").identity.name == "bundled"


def test_bundled_weights_are_small_and_in_half_precision() -> None:
    content = weights.BUNDLED_FILE.read_bytes()
    assert len(content) < 1_500_000
    assert {tensor.dtype for tensor in safetensors.torch.load(content).values()} == {torch.float16}


def test_published_teacher_is_recognized_by_its_checksum(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "renamed.tflite"
    path.write_bytes((shared_data / "attention-center" / "center.tflite").read_bytes())
    identity = find_teacher(str(path)).identity
    assert (identity.name, identity.sha256) == (weights.PUBLISHED, weights.PUBLISHED_SHA256)


def test_cached_published_teacher_needs_no_network_connection(shared_data: Path, cache: Path, server: Server) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes((shared_data / "attention-center" / "center.tflite").read_bytes())
    maps, _ = load_teacher("attention-center").predict(torch.rand(1, 3, *INPUT_SIZE))
    assert maps.shape == (1, *INPUT_SIZE)
    assert server.requests == 0


def test_published_teacher_is_downloaded_once(shared_data: Path, cache: Path, server: Server) -> None:
    server.content = (shared_data / "attention-center" / "center.tflite").read_bytes()
    server.length = len(server.content)
    first, second = find_teacher("attention-center"), find_teacher("attention-center")
    assert first == second
    assert server.requests == 1
    assert list(cache.parent.iterdir()) == [cache]


def test_damaged_file_in_the_cache_is_downloaded_again(shared_data: Path, cache: Path, server: Server) -> None:
    server.content = (shared_data / "attention-center" / "center.tflite").read_bytes()
    server.length = len(server.content)
    cache.parent.mkdir(parents=True)
    cache.write_bytes(server.content[:1000])
    find_teacher("attention-center")
    assert cache.read_bytes() == server.content


def test_error_without_a_network_names_url_and_cache_path(cache: Path, server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError) as error:
        find_teacher("attention-center")
    assert weights.PUBLISHED_URL in str(error.value)
    assert str(cache) in str(error.value)
    assert "--teacher center.tflite" in str(error.value)


def test_download_of_another_file_is_a_user_error(cache: Path, server: Server) -> None:
    server.content, server.length = b"<html>login</html>", 18
    with pytest.raises(UserError, match=r"is not the file that this version was made for \(its checksum differs\)"):
        find_teacher("attention-center")
    assert not cache.exists()


def test_interrupted_download_is_a_user_error(cache: Path, server: Server) -> None:
    server.content, server.length = b"half", 8
    with pytest.raises(UserError):
        find_teacher("attention-center")


def test_unwritable_cache_is_a_user_error(shared_data: Path, cache: Path, server: Server, tmp_path: Path) -> None:
    server.content = (shared_data / "attention-center" / "center.tflite").read_bytes()
    server.length = len(server.content)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="could not be fetched"):
        find_teacher("attention-center")


def test_source_can_be_built_without_the_weights_file(saved: Path) -> None:
    source = find_teacher(str(saved))
    saved.unlink()
    assert np.isfinite(source.build().predict(IMAGES)[0].detach().numpy()).all()
