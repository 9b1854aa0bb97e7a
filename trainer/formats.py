"""A trained model in the formats that other programs load: torchvision's weights, ONNX, a program of torch.export."""

import io
import json
import warnings
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from common.errors import UserError
from trainer.checkpoint import Trained
from trainer.model.backbone import GROUPS, MEAN, STD
from trainer.model.parts import AttentionPart, Model, ProbePart

IMAGENET_CLASSES = 1000  # of torchvision's classifier, unless it is told otherwise
EXAMPLE_SIDES = (64, 96)
LEAST_SIDE = 33  # pixels: below, the last stage is a single one, which would have to be traced apart


def written_as(ending: str, trained: Trained) -> bytes:
    """The content of a file with this ending: .safetensors, .onnx or .pt2. Raises UserError."""
    return {".safetensors": torchvision_weights, ".onnx": onnx_graph, ".pt2": program}[ending](trained)


def how_to_load(path: Path, trained: Trained) -> str:
    """The Python that loads what was written as `path`."""
    if path.suffix == ".onnx":
        return f'  onnxruntime.InferenceSession("{path}").run(None, {{"images": images}})  # float32 in [0, 1]'
    if path.suffix == ".pt2":
        return f'  torch.export.load("{path}").module()(images)  # float32 in [0, 1]'
    group = f"norm_layer=lambda channels: torch.nn.GroupNorm({GROUPS}, channels)"
    options = [f"num_classes={_classes(trained)}", *([group] if trained.config.norm == "group" else [])]
    return (
        f"  model = torchvision.models.{trained.config.backbone}({', '.join(options)})\n"
        f'  model.load_state_dict(safetensors.torch.load_file("{path}"))  # images normalised by mean {MEAN}, std {STD}'
    )


def torchvision_weights(trained: Trained) -> bytes:
    """The state dict of torchvision's ResNet, as safetensors. Raises UserError where the features need more than it."""
    backbone = trained.model.backbone
    beside = [name for name, _ in backbone.named_parameters() if not name.startswith("resnet.")]
    if beside:
        raise UserError(
            f"the features of {trained.config.recipe} are not those of a ResNet alone ({beside[0]} takes part); "
            "export it as .onnx or .pt2"
        )
    state = backbone.resnet.state_dict() | _classifier(trained)
    return safetensors.torch.save({name: one.contiguous() for name, one in state.items()}, _metadata(trained))


def _classifier(trained: Trained) -> dict[str, Tensor]:
    """Weights of `fc`: of the probe; without one zeros, as torchvision must find something there."""
    part = trained.model.part(ProbePart)
    if part is not None:
        return {f"fc.{name}": one.detach() for name, one in part.probe.named_parameters()}
    channels = trained.model.backbone.channels
    return {"fc.weight": torch.zeros(IMAGENET_CLASSES, channels), "fc.bias": torch.zeros(IMAGENET_CLASSES)}


def _classes(trained: Trained) -> int:
    return len(_classifier(trained)["fc.bias"])


def _metadata(trained: Trained) -> dict[str, str]:
    config = trained.config
    probed = trained.model.part(ProbePart) is not None
    return {
        "architecture": f"torchvision {config.backbone}",
        "norm": "batch" if config.norm == "batch" else f"group, {GROUPS} groups",
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
        "fc": "linear probe" if probed else "zeros: the run had no probe",
        "classes": json.dumps(trained.classes if probed else None),
        "recipe": config.recipe,
        "image_size": str(config.image_size),
        "step": str(trained.step),
        "checkpoint_sha256": trained.sha256,
    }


class Deployed(nn.Module):
    """What a trained model tells of images, in one pass: float [B, 3, H, W] in [0, 1] -> tensors by name."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.backbone = model.backbone
        attention, probe = model.part(AttentionPart), model.part(ProbePart)
        self.readout = None if attention is None else attention.readout
        self.probe = None if probe is None else probe.probe

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features [B, C], and what else the model has: attention [B, H, W], logits [B, classes]."""
        seen = self.backbone(images)
        outputs: dict[str, Tensor] = {"features": seen.pooled}
        if self.readout is not None:
            outputs["attention"] = self.readout(seen.stages, (images.shape[2], images.shape[3]))
        if self.probe is not None:
            outputs["logits"] = self.probe(seen.pooled)
        return outputs


def program(trained: Trained) -> bytes:
    """The model as a program of torch.export."""
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        deployed = Deployed(trained.model).eval()
        exported = torch.export.export(deployed, (_example(),), dynamic_shapes=_free_sizes())
        torch.export.save(exported, file, extra_files={"metadata.json": json.dumps(_metadata(trained))})
    return file.getvalue()


def onnx_graph(trained: Trained) -> bytes:
    """The model as an ONNX graph in one file. Raises UserError where the packages for it are missing."""
    try:
        import onnx.helper
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"an ONNX graph needs the package {error.name}: pip install 'imagenet-attn[export]'") from None
    deployed = Deployed(trained.model).eval()
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        names = list(deployed(_example()))
        graph = torch.onnx.export(
            deployed,
            (_example(),),
            input_names=["images"],
            output_names=names,
            dynamic_shapes=_free_sizes(),
            dynamo=True,
            verbose=False,
        )
    assert graph is not None
    model = graph.model_proto
    onnx.helper.set_model_props(model, _metadata(trained))
    content: bytes = model.SerializeToString()
    return content


def _free_sizes() -> tuple[dict[int, torch.export.Dim]]:
    """Batch, height and width are not those of the example that is traced."""
    sides = {axis: torch.export.Dim(name, min=LEAST_SIDE) for axis, name in ((2, "height"), (3, "width"))}
    return ({0: torch.export.Dim("batch"), **sides},)


def _example() -> Tensor:
    return torch.rand(2, 3, *EXAMPLE_SIDES)
