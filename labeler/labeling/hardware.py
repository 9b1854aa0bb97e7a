"""The choice of the backend for the hardware that a worker has."""

from common.images.gpu_decoder import find_decoder
from common.launch import default_device
from common.manifest import LabelConfig
from labeler.labeling.backend import Backend
from labeler.labeling.cpu_backend import CpuBackend
from labeler.labeling.gpu_backend import GpuBackend
from labeler.teacher.model import TeacherModel


def make_backend(teacher: TeacherModel, config: LabelConfig, use_gpu: bool = True) -> Backend:
    """Make the backend for this process's device: a GPU if PyTorch finds one and it is to be used, else the CPU."""
    device = default_device()
    if device.type == "cpu" or not use_gpu:
        return CpuBackend(teacher, config)
    decode, warning = find_decoder(device)
    backend = GpuBackend(teacher, config, device, decode)
    backend.warning = warning
    return backend
