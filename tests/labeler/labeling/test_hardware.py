import pytest
import torch

from common.manifest import LabelConfig
from labeler.labeling import hardware
from labeler.labeling.cpu_backend import CpuBackend
from labeler.labeling.gpu_backend import GpuBackend
from labeler.labeling.hardware import make_backend
from labeler.teacher.weights import CustomTeacher
from tests.support.teachers import gradient_teacher


@pytest.fixture(autouse=True)
def gpu_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a device without memory, which is no CPU, stand in for a GPU."""
    monkeypatch.setattr(hardware, "default_device", lambda: torch.device("meta"))
    monkeypatch.setattr(hardware, "find_decoder", lambda device: (None, "no decoder"))


@pytest.mark.parametrize(("use_gpu", "kind"), [(True, GpuBackend), (False, CpuBackend)])
def test_gpu_is_used_unless_the_worker_has_no_share_of_it(use_gpu: bool, kind: type) -> None:
    backend = make_backend(CustomTeacher(gradient_teacher()), LabelConfig(), use_gpu)
    assert type(backend) is kind
    assert backend.warning == ("no decoder" if use_gpu else "")
