"""The teacher: the network that predicts where people look, and its weights."""

DEFAULT_TEACHER = "attention-center"
