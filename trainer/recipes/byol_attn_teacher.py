"""BYOL whose backbone must also predict the teacher's attention maps."""

from dataclasses import replace
from functools import partial

from trainer.recipes import byol

RECIPE = replace(byol.RECIPE, build=partial(byol.build, guided=True))
