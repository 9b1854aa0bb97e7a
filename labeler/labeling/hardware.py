"""The choice of the backend for the hardware that a worker has."""

from common.images.gpu_decoder import find_decoder
from common.launch import default_device
from common.manifest import LabelConfig
from labeler.labeling.backend import Backend
from labeler.labeling.cpu_backend import CpuBackend
from labeler.labeling.gpu_backend import GpuBackend
from labeler.teacher.model import TeacherModel


def make_backend(teacher: TeacherModel, config: LabelConfig) -> Backend:
    """Make the backend for this process's device."""
    device = default_device()
    if device.type == "cpu":
        return CpuBackend(teacher, config)
    decode, warning = find_decoder(device)
    backend = GpuBackend(teacher, config, device, decode)
    backend.warning = warning
    return backend
