"""Initial weights of the network to train."""

import torch
from torch import nn

from common.errors import UserError
from labeler.teacher.model import AttentionTeacher, SaliencyBranch
from labeler.teacher.weights import load_teacher

BRANCH_BIAS = -1.0  # initial logit of each of the four saliency branches; their sum gives a map of about 0.02


def initialize_teacher(init: str, seed: int) -> AttentionTeacher:
    """Return a network with random weights (`init` is "random") or those of a named teacher. Raises UserError."""
    if init == "random":
        return initialize_random_teacher(seed)
    teacher = load_teacher(init)
    if not isinstance(teacher, AttentionTeacher):
        raise UserError(f"--init {init}: expected weights of this project's teacher network, found another network")
    return teacher


def initialize_random_teacher(seed: int) -> AttentionTeacher:
    """Return a network with random weights, as a function of the seed; the global random state is not changed.

    Convolutions are initialized as by He et al. (2015). The saliency branches start with small weights and a negative
    bias, so that the first maps are flat and faint; with He's initialization they would be near 1 everywhere, where the
    sigmoid has no gradient.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        teacher = AttentionTeacher()
        for module in teacher.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in teacher.modules():
            if isinstance(module, SaliencyBranch):
                assert module.combine.bias is not None
                nn.init.kaiming_normal_(module.detect.weight)
                nn.init.normal_(module.combine.weight, std=0.1)
                nn.init.constant_(module.combine.bias, BRANCH_BIAS)
    return teacher
