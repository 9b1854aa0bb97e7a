"""The choice of the backend for the hardware that a worker has."""

import functools

from common.images.gpu_decoder import decode_with_nvjpeg, explain_difference
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
    decode = functools.partial(decode_with_nvjpeg, device=device)
    difference = explain_difference(decode)
    backend = GpuBackend(teacher, config, device, None if difference else decode)
    if difference:
        backend.warning = f"JPEGs are decoded on the CPU, because the GPU's decoder cannot be used: {difference}"
    return backend
