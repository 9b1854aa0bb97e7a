"""Settings whose defaults may differ between versions: a new plan states them, and further runs take them from it."""

from common.manifest import LabelConfig

DEFAULTS = {"batch_size": 64, "map_encoder": "isal"}


def resolve_config(config: LabelConfig, planned: LabelConfig | None) -> LabelConfig:
    """Return the settings of a plan, in which nothing depends on the version or machine that works on it.

    `config` has None where the default applies; `planned` holds the settings of the data set's first plan, and is None
    for a new data set.
    """
    defaults = DEFAULTS if planned is None else {name: getattr(planned, name) for name in DEFAULTS}
    unset = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    return config.model_copy(update=unset)
