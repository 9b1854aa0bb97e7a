"""Settings of studies: those of a training run, and how many runs."""

from typing import Any, TypeVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.errors import UserError
from trainer.config import TrainSettings
from trainer.recipes import recipe_names

S = TypeVar("S", bound="StudySettings")


class StudySettings(TrainSettings):
    """What all runs of a study share."""

    def run(self, **changes: Any) -> TrainSettings:
        """The settings of one of its runs: those that were given, with changes."""
        given = {name: getattr(self, name) for name in self.model_fields_set & TrainSettings.model_fields.keys()}
        given |= changes
        return TrainSettings.model_construct(_fields_set=set(given), **given)

    def refuse(self, hint: str, *names: str) -> None:
        """Raises UserError where one of these flags is given."""
        if found := [f"--{name.replace('_', '-')}" for name in names if name in self.model_fields_set]:
            raise UserError(f"{', '.join(found)}: {hint}")

    def folder(self) -> str:
        """Where the study goes. Raises UserError where nothing says so."""
        if self.output is None:
            raise UserError("--output is needed: the folder of the runs and of what comes out")
        return self.output.rstrip("/")


class SearchSettings(StudySettings):
    """Search lambda (0.1 to 5) and beta (0.01 to 1) of the attention loss on an 80/20 split of the training shards.

    Every trial is a run of trainer.run's; poor ones are stopped early. The same command again goes on where it stopped.
    """

    model_config = SettingsConfigDict(env_prefix="TRAINER_SEARCH_", cli_prog_name="python -m trainer.search")

    trials: int = Field(20, ge=1, description="pairs of lambda and beta to try")
    concurrent: int = Field(1, ge=1, description="trials that run at the same time; they share this cluster's devices")


class TableSettings(StudySettings):
    """Table 1: every recipe with several seeds, mean and standard error of its top-1, beside the paper's.

    Runs that are there are used again, so that the same command after an interruption does only what is left.
    """

    model_config = SettingsConfigDict(env_prefix="TRAINER_TABLE_", cli_prog_name="python -m trainer.table")

    recipes: str = Field(",".join(recipe_names()), description="rows, separated by commas")
    seeds: int = Field(3, ge=1, description="runs of each row, with seeds 0, 1, ...")
    supervised_learning_rate: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="of supervised recipes at its peak, --learning-rate is of the others; by default 0.1 * batch size "
        "/ 256",
    )
    val: str | None = Field(
        None,
        description="folder of validation images, one folder a class, for top-1 of the probe on 87.5 % centre crops; "
        "without, the table shows the probe's accuracy on augmented training images",
    )
