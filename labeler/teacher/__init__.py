"""The teacher: the network that predicts human attention maps, its weights, its training and its evaluation."""

BUNDLED = "bundled"
PUBLISHED = "attention-center"
DEFAULT_TEACHER = BUNDLED
TEACHER_HELP = (
    f"{BUNDLED} (weights trained by this project), {PUBLISHED} (weights published by the network's authors, downloaded "
    "once), a .tflite or .safetensors file, or package.module:factory"
)
