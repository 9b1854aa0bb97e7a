"""The model card: `README.md` of a finished run, for people who use its weights and never see this code."""

from typing import Any

from trainer.config import TrainConfig

TEMPLATE = """---
tags: [contrastive-learning, saliency, human-attention, {backbone}]
---

# {recipe}, {backbone}

{what} (after Yao et al., *Teacher-generated spatial-attention labels boost robustness and accuracy of contrastive
models*, CVPR 2023.)

| | |
|---|---|
| network | {backbone}, {norm} norm, images of {image_size} px |
| learnt from | {samples:,} photographs, {epochs:,} epochs in batches of {batch_size:,}; seed {seed} |
| data set | `{data}`, sha256 `{dataset}` |
| of where people look | {attention} |
| classes | {classes} |
{figures}
Figures are means over the last epoch, on images as training shows them (cropped and recoloured); `metrics.jsonl` has
all of them, `config.json` every setting. `python -m trainer.evaluate checkpoints/best --val FOLDER` measures on images
that were not learnt from.

## Use it

```
python -m trainer.export checkpoints/best --to {backbone}.safetensors
```

gives torchvision's weights, for images in [0, 1] normalised by mean (0.485, 0.456, 0.406) and std
(0.229, 0.224, 0.225):

```python
import safetensors.torch, torchvision

weights = safetensors.torch.load_file("{backbone}.safetensors")
model = torchvision.models.{backbone}(num_classes=len(weights["fc.bias"]){norm_layer})
model.load_state_dict(weights)
```

`--to model.onnx` and `--to model.pt2` also hold what predicts where people look. From here, with this project:

```python
from trainer.checkpoint import load_trained

model = load_trained("checkpoints/best").model
attention = model.attention(images)  # float [B, 3, H, W] in [0, 1] -> [B, H, W]
```

## What it is not

Its maps are predictions of where people look in general, not recordings, and say nothing about a person. It has not
been tested for any use that matters. Rights to the photographs lie with their owners.
"""
GROUP_NORM = ", norm_layer=lambda channels: torch.nn.GroupNorm(32, channels)"
SETTINGS = {"recipe", "backbone", "norm", "image_size", "epochs", "batch_size", "seed", "data"}
FIGURES = {
    "loss": "loss",
    "contrastive": "contrastive loss",
    "attention_cc": "CC with the teacher's maps",
    "human_attention_cc": "CC with people's maps",
    "probe_accuracy": "probe or classifier right",
}


def model_card(config: TrainConfig, description: str, result: dict[str, Any]) -> str:
    """The card as Markdown, from a run's settings, its recipe's first sentence and its result."""
    figures = [f"| {title} | {result[name]:.4g} |" for name, title in FIGURES.items() if name in result]
    return TEMPLATE.format(
        **config.model_dump(include=SETTINGS),
        samples=result["samples"],
        dataset=result["dataset"],
        what=description,
        attention=_attention(config, result),
        classes=f"a classifier learnt them; chance is {result['chance']:.4g}" if "probe_accuracy" in result else "none",
        figures="\n".join(figures),
        norm_layer=GROUP_NORM if config.norm == "group" else "",
    )


def _attention(config: TrainConfig, result: dict[str, Any]) -> str:
    """Whose attention was looked at."""
    if config.human_data:
        return ", ".join(config.human_data)
    return "the maps and gaze points in the shards" if "attention_cc" in result else "nothing"
