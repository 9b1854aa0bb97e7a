"""Convert the weights that the teacher's authors published to safetensors.

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
from common.text import pluralize
from labeler.teacher.model import AttentionTeacher, SqueezeExcite

IDENTIFIER = b"TFL3"  # at byte 4 of every TensorFlow Lite file
NORM_CONSTANT_DIMENSIONS = 5  # GroupNorm's scale and offset are stored as [1, 1, 1, groups, channels / groups]
GATE_OFFSET = 3.0  # hard-sigmoid(x) = relu6(x + 3) / 6; the file has the 3 folded into the preceding bias


def is_tflite(content: bytes) -> bool:
    """Return whether the bytes are those of a TensorFlow Lite file, complete or not."""
    return content[4:8] == IDENTIFIER


def read_tflite(content: bytes) -> dict[str, Tensor]:
    """Read the float32 state dict of an AttentionTeacher from the bytes of `center.tflite`.

    Weights are assigned in the order of the file's operators, which is the network's own order. The names of the
    constants cannot be used: the converter merged equal constants. Raises UserError if the file is damaged or holds
    another network.
    """
    graph = _Graph(content)
    teacher = AttentionTeacher()
    convolutions = [module for module in teacher.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in teacher.modules() if isinstance(module, nn.GroupNorm)]
    try:
        weights, norm_constants = graph.convolution_weights(), graph.norm_constants()
        for convolution, (weight, bias) in zip(convolutions, weights, strict=True):
            _assign(convolution.weight, weight)
            if convolution.bias is not None:
                _assign(convolution.bias, bias)
        # each GroupNorm reads its scale, its offset, and its scale again
        for norm, scale, offset in zip(norms, norm_constants[0::3], norm_constants[1::3], strict=True):
            _assign(norm.weight, scale)
            _assign(norm.bias, offset)
    except ValueError as error:
        raise UserError(f"this TensorFlow Lite file holds another network than attention-center's: {error}") from None
    for module in teacher.modules():
        if isinstance(module, SqueezeExcite) and module.expand.bias is not None:
            module.expand.bias.data -= GATE_OFFSET
    return teacher.state_dict()


class _Graph:
    """Reader of the operators and constants of a TensorFlow Lite file."""

    def __init__(self, content: bytes) -> None:
        require_extra("teacher", "reading .tflite weights")
        import tflite

        if not is_tflite(content):
            raise UserError("expected a TensorFlow Lite file, found a file of another format")
        self._operator_names = {
            code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)
        }
        self._dtypes = {tflite.TensorType.FLOAT32: "<f4", tflite.TensorType.FLOAT16: "<f2"}
        try:
            self._model = tflite.Model.GetRootAs(content, 0)
            self._graph = self._model.Subgraphs(0)
            self._operators = [self._read_operator(index) for index in range(self._graph.OperatorsLength())]
        except Exception as error:  # the flatbuffer reader does not check its input and raises many types
            raise UserError(f"this TensorFlow Lite file is damaged: {error}") from None
        # constants are stored in half precision, and a DEQUANTIZE operator converts each of them
        self._stored_constants = {
            outputs[0]: inputs[0] for name, inputs, outputs in self._operators if name == "DEQUANTIZE"
        }

    def convolution_weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the weight [out, in / groups, h, w] and bias [out] of every convolution."""
        weights = []
        for name, inputs, _ in self._operators:
            if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                weight, bias = self._read_constant(inputs[1]), self._read_constant(inputs[2])
                if weight is None or bias is None:
                    raise UserError(
                        "this TensorFlow Lite file holds another network than attention-center's: a convolution "
                        "without constant weights"
                    )
                axes = (0, 3, 1, 2) if name == "CONV_2D" else (3, 0, 1, 2)  # from OHWI, 1HWC
                weights.append((weight.transpose(axes), bias))
        return weights

    def norm_constants(self) -> list[np.ndarray]:
        """Return the scales and offsets [channels] in the order in which the GroupNorms read them."""
        constants = []
        for name, inputs, _ in self._operators:
            if name == "BROADCAST_TO" and self._graph.Tensors(inputs[0]).ShapeLength() == NORM_CONSTANT_DIMENSIONS:
                constant = self._read_constant(inputs[0])
                if constant is not None:
                    constants.append(constant.reshape(-1))
        return constants

    def _read_operator(self, index: int) -> tuple[str, list[int], list[int]]:
        """Return the operator's name and the indices of its input and output tensors."""
        operator = self._graph.Operators(index)
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        name = self._operator_names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs = [operator.Inputs(i) for i in range(operator.InputsLength())]
        return name, inputs, [operator.Outputs(i) for i in range(operator.OutputsLength())]

    def _read_constant(self, index: int) -> np.ndarray | None:
        """Return a tensor's stored values as float32; None if an operator computes them."""
        tensor: Any = self._graph.Tensors(self._stored_constants.get(index, index))
        buffer = self._model.Buffers(tensor.Buffer())
        if not buffer.DataLength() or tensor.Type() not in self._dtypes:
            return None
        values = np.frombuffer(buffer.DataAsNumpy().tobytes(), self._dtypes[tensor.Type()])
        return values.astype(np.float32).reshape(tensor.ShapeAsNumpy())


def _assign(parameter: Tensor, values: np.ndarray) -> None:
    if tuple(parameter.shape) != values.shape:
        raise ValueError(f"expected a weight of shape {tuple(parameter.shape)}, found {values.shape}")
    parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def main() -> int:
    """Convert a file and return exit code 0. Raises UserError."""
    parser = argparse.ArgumentParser(
        prog="python -m labeler.teacher.tflite",
        description="Convert the weights that the teacher's authors published to safetensors.",
    )
    parser.add_argument("source", type=Path, help="center.tflite of github.com/google/attention-center")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    arguments = parser.parse_args()
    try:
        state = read_tflite(arguments.source.read_bytes())
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, arguments.target)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot convert {arguments.source} to {arguments.target}: {describe_error(error)}") from None
    parameters = sum(tensor.numel() for tensor in state.values())
    print(f"wrote {pluralize(parameters, 'parameter')} to {arguments.target}")
    return 0


if __name__ == "__main__":
    run_program(main)
