"""Settings without a fixed default: a new plan states them, and further runs take them from the plan."""

from collections.abc import Callable

from common.manifest import LabelConfig

CPU_BATCH_SIZE, GPU_BATCH_SIZE = 1, 64
RESOLVED = ("batch_size", "map_encoder")


def resolve_config(config: LabelConfig, planned: LabelConfig | None, has_gpus: Callable[[], bool]) -> LabelConfig:
    """Return the settings of a plan, in which nothing depends on the machine that works on it.

    Args:
        config: the settings as the user gave them; None where the default applies.
        planned: the settings of the data set's first plan, or None for a new data set.
        has_gpus: returns whether the workers will run on GPUs. It is called only if this decides a setting.
    """
    unset = [name for name in RESOLVED if getattr(config, name) is None]
    if planned is not None:
        return config.model_copy(update={name: getattr(planned, name) for name in unset})
    defaults = {
        "batch_size": lambda: GPU_BATCH_SIZE if has_gpus() else CPU_BATCH_SIZE,
        "map_encoder": lambda: "zlib",
    }
    return config.model_copy(update={name: defaults[name]() for name in unset})
