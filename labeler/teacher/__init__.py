"""The teacher: the network that predicts where people look, and its weights."""

BUNDLED = "bundled"
PUBLISHED = "attention-center"
DEFAULT_TEACHER = BUNDLED
TEACHERS = (
    f"{BUNDLED} (this project's own), {PUBLISHED} (as published, fetched once), a .tflite or .safetensors file, or "
    "package.module:factory"
)
