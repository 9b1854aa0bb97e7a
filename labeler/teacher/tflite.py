"""Import the weights that the teacher's authors published.

python -m labeler.teacher.tflite center.tflite teacher.safetensors
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UserError, describe_error, run_program
from common.extras import require_extra
from labeler.teacher.model import AttentionTeacher, SqueezeExcite

IDENTIFIER = b"TFL3"  # at byte 4 of every TensorFlow Lite file
NORM_CONSTANT_DIMENSIONS = 5  # a GroupNorm's scale and offset are stored as [1, 1, 1, groups, channels / groups]
FOLDED_INTO_GATE = 3.0  # hard-sigmoid(x) = relu6(x + 3) / 6, and the file's bias already holds the 3


def read_tflite(content: bytes) -> dict[str, Tensor]:
    """The state dict of an AttentionTeacher, fp32, from the bytes of `center.tflite`.

    Weights are taken in the order of the file's operators, which is the order of the network: the names of its
    constants mislead, since equal ones were merged. Raises UserError where the file is not this network.
    """
    graph = _Graph(content)
    teacher = AttentionTeacher()
    convolutions = [module for module in teacher.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in teacher.modules() if isinstance(module, nn.GroupNorm)]
    try:
        weights, constants = graph.convolutions(), graph.norm_constants()
        for convolution, (weight, bias) in zip(convolutions, weights, strict=True):
            _assign(convolution.weight, weight)
            if convolution.bias is not None:
                _assign(convolution.bias, bias)
        # each GroupNorm reads its scale, its offset, and its scale again
        for norm, scale, offset in zip(norms, constants[0::3], constants[1::3], strict=True):
            _assign(norm.weight, scale)
            _assign(norm.bias, offset)
    except ValueError as error:
        raise UserError(f"this TensorFlow Lite file holds another network than attention-center's: {error}") from None
    for module in teacher.modules():
        if isinstance(module, SqueezeExcite) and module.expand.bias is not None:
            module.expand.bias.data -= FOLDED_INTO_GATE
    return teacher.state_dict()


class _Graph:
    """The operators and constants of a TensorFlow Lite file."""

    def __init__(self, content: bytes) -> None:
        require_extra("teacher", "reading .tflite weights")
        import tflite

        if content[4:8] != IDENTIFIER:
            raise UserError("expected a TensorFlow Lite file, found something else")
        self._names = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
        self._types = {tflite.TensorType.FLOAT32: "<f4", tflite.TensorType.FLOAT16: "<f2"}
        try:
            self._model = tflite.Model.GetRootAs(content, 0)
            self._graph = self._model.Subgraphs(0)
            self._operators = [self._read_operator(index) for index in range(self._graph.OperatorsLength())]
        except Exception as error:  # the flatbuffer reader trusts its input and fails in many ways
            raise UserError(f"this TensorFlow Lite file is damaged: {error}") from None
        # weights are stored in half precision and widened by an operator each
        self._widened = {outputs[0]: inputs[0] for name, inputs, outputs in self._operators if name == "DEQUANTIZE"}

    def convolutions(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weights [out, in / groups, h, w] and biases [out] of every convolution."""
        found = []
        for name, inputs, _ in self._operators:
            if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                weight, bias = self._constant(inputs[1]), self._constant(inputs[2])
                if weight is None or bias is None:
                    raise UserError("this TensorFlow Lite file has a convolution without constant weights")
                axes = (0, 3, 1, 2) if name == "CONV_2D" else (3, 0, 1, 2)  # OHWI, 1HWC
                found.append((weight.transpose(axes), bias))
        return found

    def norm_constants(self) -> list[np.ndarray]:
        """Scales and offsets [channels] as the GroupNorms read them."""
        found = []
        for name, inputs, _ in self._operators:
            if name == "BROADCAST_TO" and self._graph.Tensors(inputs[0]).ShapeLength() == NORM_CONSTANT_DIMENSIONS:
                constant = self._constant(inputs[0])
                if constant is not None:
                    found.append(constant.reshape(-1))
        return found

    def _read_operator(self, index: int) -> tuple[str, list[int], list[int]]:
        operator = self._graph.Operators(index)
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        name = self._names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs = [operator.Inputs(i) for i in range(operator.InputsLength())]
        return name, inputs, [operator.Outputs(i) for i in range(operator.OutputsLength())]

    def _constant(self, index: int) -> np.ndarray | None:
        """A tensor's stored values, fp32; None where it is computed."""
        tensor: Any = self._graph.Tensors(self._widened.get(index, index))
        buffer = self._model.Buffers(tensor.Buffer())
        if not buffer.DataLength() or tensor.Type() not in self._types:
            return None
        values = np.frombuffer(buffer.DataAsNumpy().tobytes(), self._types[tensor.Type()])
        return values.astype(np.float32).reshape(tensor.ShapeAsNumpy())


def _assign(parameter: Tensor, values: np.ndarray) -> None:
    if tuple(parameter.shape) != values.shape:
        raise ValueError(f"expected a weight of shape {tuple(parameter.shape)}, found {values.shape}")
    parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def main() -> int:
    """Convert a file. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m labeler.teacher.tflite", description=__doc__)
    parser.add_argument("source", type=Path, help="center.tflite of github.com/google/attention-center")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    arguments = parser.parse_args()
    try:
        state = read_tflite(arguments.source.read_bytes())
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, arguments.target)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot convert {arguments.source} to {arguments.target}: {describe_error(error)}") from None
    print(f"wrote {sum(tensor.numel() for tensor in state.values()):,} parameters to {arguments.target}")
    return 0


if __name__ == "__main__":
    run_program(main)
