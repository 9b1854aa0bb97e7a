"""Settings of studies: those of a training run, and the number and kind of runs."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.errors import UserError
from common.settings import Settings
from trainer.config import TrainSettings
from trainer.recipes import PAPER_ROWS

BASELINE, TREATMENT = "contrastive", "contrastive-attn-teacher"
CONTROLS = ("contrastive-attn-permuted", "contrastive-attn-center", "contrastive-attn-lowlevel")
CONTROL_SUITES = ("linear", "alignment", "imagenet-c")  # of trainer.evaluate


class StudySettings(TrainSettings):
    """Base of a study's settings: those that all of its training runs share."""

    output: str | None = Field(
        None,
        description="folder of the study, with its runs and results, new or to be resumed, local or (trainer.table) "
        "s3://BUCKET/PREFIX; required",
    )

    def run_settings(self, **changes: Any) -> TrainSettings:
        """Return the settings of one run: those that the user gave, with changes. All others take their defaults."""
        given = {name: getattr(self, name) for name in self.model_fields_set & TrainSettings.model_fields.keys()}
        given |= changes
        return TrainSettings.model_construct(_fields_set=set(given), **given)

    def reject(self, reason: str, *names: str) -> None:
        """Raise UserError with the reason if the user gave any of the settings with these names."""
        if flags := [f"--{name.replace('_', '-')}" for name in names if name in self.model_fields_set]:
            raise UserError(f"{', '.join(flags)}: {reason}")

    def study_folder(self) -> str:
        """Return the folder of the study. Raises UserError if none was given."""
        if self.output is None:
            raise UserError("--output is needed: the folder of the study, with its runs and results")
        return self.output.rstrip("/")


class SearchSettings(StudySettings):
    """Search the weights of KLD (0.1 to 5) and NSS (0.01 to 1) in the attention loss for the highest probe accuracy.

    Each trial is a training run with other weights, on 80 % of the shards; accuracy is measured on the other 20 %.
    Trials with a low accuracy are stopped early. Run the same command again to resume a stopped search. Every other
    flag is a setting of all trials, except --kld-weight, --nss-weight, --workers and --monitor, which cannot be given.
    """

    model_config = SettingsConfigDict(env_prefix="TRAINER_SEARCH_", cli_prog_name="python -m trainer.search")
    help_groups: ClassVar[dict[str, tuple[str, ...]]] = {
        "study": ("trials", "concurrent"),
        **TrainSettings.help_groups,
    }

    trials: int = Field(20, ge=1, description="number of pairs of weights to try")
    concurrent: int = Field(
        1, ge=1, description="number of trials that run at the same time and share the GPUs or cores of the cluster"
    )


class RecipesSettings(StudySettings):
    """Base of the settings of studies that train several recipes with several seeds."""

    recipes: str = Field(",".join(PAPER_ROWS), description="recipes to train, separated by commas; a row each")
    seeds: int = Field(3, ge=1, description="number of runs per recipe; their seeds are 0, 1, ...")
    val: str | None = Field(
        None,
        description="folder of validation images, one folder per class, to measure top-1 accuracy on 87.5 % center "
        "crops; without it the table shows the accuracy on the augmented training images of the last epoch",
    )


class TableSettings(RecipesSettings):
    """Reproduce Table 1: train every recipe with several seeds, and compare the mean top-1 accuracy with the paper's.

    Recipes are also compared with a baseline, seed by seed (--baseline).

    Finished runs are not repeated: run the same command again to resume a stopped study or to add rows and seeds. Every
    other flag is a setting of all runs, except --recipe and --seed, which --recipes and --seeds replace.
    """

    model_config = SettingsConfigDict(env_prefix="TRAINER_TABLE_", cli_prog_name="python -m trainer.table")
    help_groups: ClassVar[dict[str, tuple[str, ...]]] = {
        "study": ("recipes", "seeds", "baseline", "val", "supervised_learning_rate"),
        **TrainSettings.help_groups,
    }

    baseline: str | None = Field(
        None,
        description="recipe of the table with which all others are compared by seed; by default each with the one that "
        "its name begins with: contrastive-attn-teacher with contrastive, supervised-attn-teacher with supervised",
    )
    supervised_learning_rate: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="peak learning rate of supervised recipes, to which --learning-rate does not apply; by default 0.1 "
        "* batch size / 256",
    )


class ControlsSettings(RecipesSettings):
    """Run the study of controls: does attention help because it is human, or would any dense auxiliary task?

    trainer/studies/STUDY.md states the hypothesis, the primary outcome and the decision rule. The planned settings are
    in a file: --config trainer/studies/study.yaml. Each run (a recipe and a seed) ends with a small result file in
    OUTPUT/results. Runs that have one are not repeated, also if it was made on another machine and copied there. Run
    the same command again to resume a stopped study or to add seeds.
    """

    model_config = SettingsConfigDict(
        env_prefix="TRAINER_CONTROLS_", cli_prog_name="python -m trainer.studies.controls"
    )
    help_groups: ClassVar[dict[str, tuple[str, ...]]] = {
        "study": ("recipes", "seeds", "first_seed", "val", "people", "suites"),
        "corruptions": ("corrupted_images", "severities"),
        **TrainSettings.help_groups,
    }

    recipes: str = Field(
        ",".join((BASELINE, TREATMENT, *CONTROLS)),
        description="recipes to train, the arms, separated by commas; all other settings must be the same for all",
    )
    seeds: int = Field(3, ge=1, description="number of runs per recipe; their seeds are --first-seed and the next ones")
    first_seed: int = Field(0, ge=0, description="first seed, so that several machines can run different ones")
    val: str | None = Field(None, description="class folders of the images that probes are measured on; required")
    people: str | None = Field(
        None,
        description="FORMAT:FOLDER of eye tracking that attention maps are compared with, such as osie-eye:OSIE; "
        "without it alignment is not measured",
    )
    suites: list[str] = Field(
        list(CONTROL_SUITES),
        description=f"suites of trainer.evaluate to measure: some of {', '.join(CONTROL_SUITES)}. A machine with a GPU "
        "can leave out imagenet-c, and one with many cores add it later from the checkpoints",
    )
    corrupted_images: int = Field(500, ge=1, description="images of --val that are corrupted, drawn by seed")
    severities: list[Annotated[int, Field(ge=1, le=5)]] = Field(
        [1, 3, 5], min_length=1, description="severities of the corruptions"
    )

    @field_validator("suites")
    @classmethod
    def _check_suites(cls, names: list[str]) -> list[str]:
        if not names or set(names) - set(CONTROL_SUITES):
            raise ValueError(f"expected some of {', '.join(CONTROL_SUITES)}")
        return names

    def wanted_suites(self) -> list[str]:
        """Return the suites whose data are given, in their usual order. Raises UserError if there are none."""
        wanted = [name for name in CONTROL_SUITES if name in self.suites and (name != "alignment" or self.people)]
        if not wanted:
            raise UserError(
                "--suites alignment needs --people FORMAT:FOLDER, the eye tracking to compare with, such as "
                "osie-eye:OSIE; add the flag, or choose further suites"
            )
        return wanted


class SummarySettings(Settings):
    """Summarize the result files of a study of controls, also those that were made on other machines.

    Writes study.md, study.csv and study.html. Files of other settings or other data are refused by name.
    """

    model_config = SettingsConfigDict(
        env_prefix="TRAINER_SUMMARIZE_", cli_prog_name="python -m trainer.studies.summarize"
    )
    help_groups: ClassVar[dict[str, tuple[str, ...]]] = {"input and output": ("results", "output")}

    results: CliPositionalArg[str] = Field(description="folder of result files, local or s3://BUCKET/PREFIX")
    output: str | None = Field(None, description="folder of the summary; by default that of the result files")
