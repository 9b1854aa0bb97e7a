"""Encoding of a trained model for other programs: torchvision weights, an ONNX graph, or a torch.export program."""

import io
import json
import warnings
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from common.extras import require_extra
from trainer.checkpoint import Trained
from trainer.model.backbone import GROUPS, MEAN, STD, small_stem_code
from trainer.objectives import Model, predicts_single_maps

DEFAULT_CLASSES = 1000  # number of classes of torchvision's ResNets unless `num_classes` is given
TRACED_SHAPE = (2, 3, 64, 96)  # of the example images; height and width differ so that they become separate dimensions
DYNAMIC_DIMENSIONS = {0: "batch", 2: "height", 3: "width"}  # that are not fixed to those of the example


def encode_model(suffix: str, trained: Trained) -> bytes:
    """Return the content of an exported file with the suffix .safetensors, .onnx or .pt2.

    Raises UserError if a package that the format needs is not installed.
    """
    encoders = {".safetensors": encode_torchvision_weights, ".onnx": encode_onnx, ".pt2": encode_exported_program}
    return encoders[suffix](trained)


def format_loading_code(path: Path, trained: Trained) -> str:
    """Return lines of Python that load the exported file at `path`, to be shown to the user."""
    if path.suffix == ".onnx":
        return f'  onnxruntime.InferenceSession("{path}").run(None, {{"images": images}})  # float32 in [0, 1]'
    if path.suffix == ".pt2":
        return f'  torch.export.load("{path}").module()(images)  # float32 in [0, 1]'
    options = [f"num_classes={len(_fc_weights(trained)['bias'])}"]
    if trained.config.norm == "group":
        options.append(f"norm_layer=lambda channels: torch.nn.GroupNorm({GROUPS}, channels)")
    stem = small_stem_code("model", trained.config.stem_stride)
    return (
        f"  model = torchvision.models.{trained.config.backbone}({', '.join(options)})\n"
        f"{f'  {stem}' if stem else ''}"
        f'  model.load_state_dict(safetensors.torch.load_file("{path}"))  # images normalized by mean {MEAN}, std {STD}'
    )


def encode_torchvision_weights(trained: Trained) -> bytes:
    """Encode the state dict of torchvision's ResNet as safetensors; an attention block after it is not included."""
    state = trained.model.backbone.resnet.state_dict()
    state |= {f"fc.{name}": weights for name, weights in _fc_weights(trained).items()}
    return safetensors.torch.save({name: weights.contiguous() for name, weights in state.items()}, _metadata(trained))


def _fc_weights(trained: Trained) -> dict[str, Tensor]:
    """Return `weight` and `bias` of the ResNet's `fc`; zeros without a classifier, since torchvision requires them."""
    weights = _find_classifier(trained.model)
    if weights is None:
        channels = trained.model.backbone.channels
        return {"weight": torch.zeros(DEFAULT_CLASSES, channels), "bias": torch.zeros(DEFAULT_CLASSES)}
    return weights


def _find_classifier(model: Model) -> dict[str, Tensor] | None:
    """Return the linear layer that classifies the ResNet's features; None without one, or if it follows a block."""
    if not isinstance(model.block, nn.Identity):
        return None
    classifiers = (objective.classifier() for objective in model.objectives)
    return next((classifier for classifier in classifiers if classifier is not None), None)


def _metadata(trained: Trained) -> dict[str, str]:
    config = trained.config
    has_classifier = _find_classifier(trained.model) is not None
    return {
        "architecture": f"torchvision {config.backbone}",
        "stem_stride": str(config.stem_stride),
        "norm": "batch" if config.norm == "batch" else f"group, {GROUPS} groups",
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
        "fc": "probe or classifier" if has_classifier else "zeros: the run has no classifier of these features",
        "classes": json.dumps(trained.classes if has_classifier else None),
        "recipe": config.recipe,
        "image_size": str(config.image_size),
        "step": str(trained.step),
        "checkpoint_sha256": trained.sha256,
    }


class InferenceModel(nn.Module):
    """The outputs of a trained model in one forward pass, in the form that ONNX graphs and exported programs have.

    The attention of ContraCAM is not included, since it depends on the other images of the batch.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self._predicts_attention = predicts_single_maps(model)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map images, float [B, 3, H, W] in [0, 1], to `features` [B, channels] and the outputs that the model has.

        These are `attention` [B, H, W] and `logits` [B, classes].
        """
        encoded = self.model.encode(images)
        size = (images.shape[2], images.shape[3])
        outputs = {
            "features": encoded.pooled,
            "attention": self.model.attention_of(encoded, size) if self._predicts_attention else None,
            "logits": self.model.logits_of(encoded.pooled),
        }
        return {name: output for name, output in outputs.items() if output is not None}


def encode_exported_program(trained: Trained) -> bytes:
    """Encode the model as a program for `torch.export.load`; its metadata are the extra file `metadata.json`."""
    file = io.BytesIO()
    model = InferenceModel(trained.model).eval()
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        shapes = dict.fromkeys(DYNAMIC_DIMENSIONS, torch.export.Dim.AUTO)
        program = torch.export.export(model, (torch.rand(TRACED_SHAPE),), dynamic_shapes=(shapes,))
        _allow_all_sizes(program)
        torch.export.save(program, file, extra_files={"metadata.json": json.dumps(_metadata(trained))})
    return file.getvalue()


def _allow_all_sizes(program: torch.export.ExportedProgram) -> None:
    """Remove the program's conditions on batch size, height and width.

    torch.export derives them from strides, which are ambiguous where a size is 1: the program would reject images of
    up to 32 pixels, of which the last stage has a single position. None of its operations depends on strides.
    """
    program._guards_code.clear()
    assert len(program.range_constraints) == len(DYNAMIC_DIMENSIONS), "torch.export has fixed a size of the images"
    for size, bounds in program.range_constraints.items():
        program.range_constraints[size] = type(bounds)(1, bounds.upper)


def encode_onnx(trained: Trained) -> bytes:
    """Encode the model as an ONNX graph in one file. Raises UserError if the packages for it are not installed."""
    require_extra("export", "an ONNX graph")
    import onnx.helper

    model = InferenceModel(trained.model).eval()
    images = torch.rand(TRACED_SHAPE)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            model,
            (images,),
            input_names=["images"],
            output_names=list(model(images)),
            dynamic_shapes=({dimension: torch.export.Dim(name) for dimension, name in DYNAMIC_DIMENSIONS.items()},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    onnx.helper.set_model_props(graph, _metadata(trained))
    content: bytes = graph.SerializeToString()
    return content
