"""The teacher: the network that predicts where people look, and its weights."""

PUBLISHED = "attention-center"
DEFAULT_TEACHER = PUBLISHED
