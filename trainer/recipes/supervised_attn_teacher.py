"""A supervised classifier whose backbone must also predict the teacher's attention maps."""

from dataclasses import replace
from functools import partial

from trainer.recipes import supervised

RECIPE = replace(
    supervised.RECIPE,
    build=partial(supervised.build, guided=True),
    paper={"resnet50": (76.02, 0.04), "resnet18": (69.30, 0.04)},
)
