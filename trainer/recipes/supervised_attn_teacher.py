"""A supervised classifier whose backbone must also predict where the teacher says that people look."""

from dataclasses import replace
from functools import partial

from trainer.recipes import supervised

RECIPE = replace(supervised.RECIPE, build=partial(supervised.build, guided=True))
