"""A trained model in the formats that other programs load: torchvision's weights, ONNX, a program of torch.export."""

import io
import json
import warnings
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from common.extras import require_extra
from trainer.checkpoint import Trained
from trainer.model.backbone import GROUPS, MEAN, STD
from trainer.model.contracam import ContraCAM
from trainer.objectives import AttentionObjective, Model

IMAGENET_CLASSES = 1000  # of torchvision's classifier, unless it is told otherwise
EXAMPLE_SIDES = (64, 96)
LEAST_SIDE = 33  # pixels: below, the last stage is a single one, which would have to be traced apart


def encode_model(ending: str, trained: Trained) -> bytes:
    """The content of a file with this ending: .safetensors, .onnx or .pt2. Raises UserError."""
    return {".safetensors": torchvision_weights, ".onnx": onnx_graph, ".pt2": exported_program}[ending](trained)


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
    """The state dict of torchvision's ResNet, as safetensors; an attention block after it is left out."""
    state = trained.model.backbone.resnet.state_dict() | {f"fc.{name}": one for name, one in _fc(trained).items()}
    return safetensors.torch.save({name: one.contiguous() for name, one in state.items()}, _metadata(trained))


def _fc(trained: Trained) -> dict[str, Tensor]:
    """Weights of `fc`: of the probe or classifier; zeros without one, as torchvision must find something there."""
    found = _classifier(trained.model)
    if found is None:
        channels = trained.model.backbone.channels
        return {"weight": torch.zeros(IMAGENET_CLASSES, channels), "bias": torch.zeros(IMAGENET_CLASSES)}
    return found


def _classifier(model: Model) -> dict[str, Tensor] | None:
    """What tells classes from a ResNet's features; None where nothing does, or only from features under a block."""
    if not isinstance(model.block, nn.Identity):
        return None
    return next((found for objective in model.objectives if (found := objective.classifier()) is not None), None)


def _classes(trained: Trained) -> int:
    return len(_fc(trained)["bias"])


def _metadata(trained: Trained) -> dict[str, str]:
    config = trained.config
    probed = _classifier(trained.model) is not None
    return {
        "architecture": f"torchvision {config.backbone}",
        "norm": "batch" if config.norm == "batch" else f"group, {GROUPS} groups",
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
        "fc": "probe or classifier" if probed else "zeros: none knows classes from these features alone",
        "classes": json.dumps(trained.classes if probed else None),
        "recipe": config.recipe,
        "image_size": str(config.image_size),
        "step": str(trained.step),
        "checkpoint_sha256": trained.sha256,
    }


class Deployed(nn.Module):
    """What a trained model tells of images, in one pass: float [B, 3, H, W] in [0, 1] -> tensors by name.

    ContraCAM's attention is left out: it depends on the other images of a batch.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        part = model.objective(AttentionObjective)
        self._attends = part is None or not isinstance(part.readout, ContraCAM)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features [B, C], and what else the model has: attention [B, H, W], logits [B, classes]."""
        seen = self.model.encode(images)
        attention = self.model.attention_of(seen, (images.shape[2], images.shape[3])) if self._attends else None
        found = {"features": seen.pooled, "attention": attention, "logits": self.model.logits_of(seen.pooled)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def exported_program(trained: Trained) -> bytes:
    """The model as a program of torch.export."""
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        deployed = Deployed(trained.model).eval()
        exported = torch.export.export(deployed, (_example(),), dynamic_shapes=_free_sizes())
        torch.export.save(exported, file, extra_files={"metadata.json": json.dumps(_metadata(trained))})
    return file.getvalue()


def onnx_graph(trained: Trained) -> bytes:
    """The model as an ONNX graph in one file. Raises UserError where the packages for it are missing."""
    require_extra("export", "an ONNX graph")
    import onnx.helper

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
