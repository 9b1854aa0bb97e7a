"""The model card of a finished run: `README.md`, written for people who use the weights without knowing this code."""

from typing import Any

from common.text import pluralize
from trainer.config import TrainConfig
from trainer.model.backbone import small_stem_code
from trainer.recipes import PAPER_ROWS, get_recipe

TEMPLATE = """---
tags: [contrastive-learning, saliency, human-attention, {backbone}]
---

# {recipe}, {backbone}

{description}

{relation} Yao et al., *Teacher-generated spatial-attention labels boost robustness and accuracy of
contrastive models*, CVPR 2023.

| | |
|---|---|
| network | {backbone}, {norm} norm, stem of stride {stem_stride}, images of {image_size} px |
| views | crops of at least {min_crop:g} of the area, color jitter of strength {jitter_strength:g}, {blur} blur |
| training | {samples}, {epochs} in batches of {batch_size:,}; seed {seed} |
| data set | `{data}`, SHA-256 `{dataset}` |
| attention targets | {attention} |
| classes | {classes} |
{figures}

The figures are means over the last epoch on the cropped and color-jittered training images. `metrics.jsonl` contains
all metrics, `config.json` all settings. To measure on images that the model was not trained on, run
`python -m trainer.evaluate checkpoints/best --val FOLDER`.

## Use

```bash
python -m trainer.export checkpoints/best --to {backbone}.safetensors
```

writes weights for torchvision. Their input is images in [0, 1], normalized with mean (0.485, 0.456, 0.406) and
standard deviation (0.229, 0.224, 0.225):

```python
import safetensors.torch, torch, torchvision

weights = safetensors.torch.load_file("{backbone}.safetensors")
model = torchvision.models.{backbone}(num_classes=len(weights["fc.bias"]){norm_layer})
{stem}model.load_state_dict(weights)
```

The formats `--to model.onnx` and `--to model.pt2` include the prediction of attention maps. With this project
installed, the model can be loaded from the checkpoint:

```python
from trainer.checkpoint import load_trained

model = load_trained("checkpoints/best").model
attention = model.attention(images)  # float [B, 3, H, W] in [0, 1] -> [B, H, W]
```

## Limitations

The maps are predictions of where people look in general. They are not recordings, and they say nothing about an
individual person. The model has not been tested for any application. The rights to the photographs remain with their
owners.
"""
GROUP_NORM_ARGUMENT = ", norm_layer=lambda channels: torch.nn.GroupNorm(32, channels)"
SETTINGS_SHOWN = {
    "recipe",
    "backbone",
    "norm",
    "stem_stride",
    "min_crop",
    "jitter_strength",
    "image_size",
    "batch_size",
    "seed",
    "data",
}
FIGURE_TITLES = {
    "loss": "loss",
    "contrastive": "contrastive loss",
    "vicreg": "VICReg's loss",
    "byol": "BYOL's loss",
    "attention_cc": "CC with the attention targets",
    "human_attention_cc": "CC with human attention maps",
    "probe_accuracy": "accuracy of the probe or classifier",
    "knn_20": "accuracy of 20 nearest neighbors on images that the model was not trained on",
    "knn_200": "accuracy of 200 nearest neighbors on the same images",
    "rankme": "RankMe of the features of training images",
}


def model_card(config: TrainConfig, description: str, result: dict[str, Any]) -> str:
    """Return the model card as Markdown.

    Args:
        config: settings of the run.
        description: a sentence about the recipe.
        result: content of the run's `result.json`.
    """
    figures = [f"| {title} | {result[name]:.4g} |" for name, title in FIGURE_TITLES.items() if name in result]
    has_classes = "probe_accuracy" in result
    return TEMPLATE.format(
        **config.model_dump(include=SETTINGS_SHOWN),
        samples=pluralize(result["samples"], "photograph"),
        epochs=pluralize(config.epochs, "epoch"),
        dataset=result["dataset"],
        description=description,
        relation="This is a row of Table 1 in" if config.recipe in PAPER_ROWS else "The attention branch is that of",
        attention=_attention_targets(config, result),
        classes=f"a linear classifier was trained on them; chance is {result['chance']:.4g}" if has_classes else "none",
        figures="\n".join(figures),
        blur="with" if config.blur else "without",
        stem=small_stem_code("model", config.stem_stride),
        norm_layer=GROUP_NORM_ARGUMENT if config.norm == "group" else "",
    )


def _attention_targets(config: TrainConfig, result: dict[str, Any]) -> str:
    if config.human_data:
        return ", ".join(config.human_data)
    return f"{get_recipe(config.recipe).target} and gaze points" if "attention_cc" in result else "none"
