"""VICReg whose backbone must also predict the teacher's attention maps."""

from dataclasses import replace
from functools import partial

from trainer.recipes import vicreg

RECIPE = replace(vicreg.RECIPE, build=partial(vicreg.build, guided=True))
