"""Which metrics the objectives of each recipe log, and which parameters their losses train."""

import pytest
import torch

from tests.support.data.datasets import make_dataset
from tests.support.training import CPU, make_trainer
from trainer.recipes import recipe_names
from trainer.step import prepare_inputs


def trained_parameters(data, recipe):
    """For each objective of a recipe: the names of its metrics -> the names of the parameters with a gradient."""
    trainer, stream = make_trainer(data, recipe=recipe, image_size=40)
    inputs = prepare_inputs(next(stream.batches(0, 1)), CPU)
    outputs = trainer.model(inputs.views, inputs.clean)
    parameters = {name: weights for name, weights in trainer.model.named_parameters() if weights.requires_grad}
    trained = {}
    for objective in trainer.model.objectives:
        terms = objective.loss_terms(outputs, inputs)
        gradients = [None] * len(parameters)
        if terms.loss.requires_grad:
            gradients = torch.autograd.grad(terms.loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        names = {
            name
            for name, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None and gradient.any()
        }
        trained[frozenset(terms.figures)] = frozenset(names)
    return trained


@pytest.fixture(scope="module")
def trained_by_recipe(tmp_path_factory):
    data = make_dataset(tmp_path_factory.mktemp("discs"), [30, 34, 32])
    return {recipe: trained_parameters(data, recipe) for recipe in recipe_names()}


CONTROLS = {"contrastive-attn-permuted", "contrastive-attn-center", "contrastive-attn-lowlevel"}


def test_all_recipes_but_controls_differ(trained_by_recipe):
    """Any two recipes differ in their metrics, or in the parameters that one of their objectives trains."""
    assert len(trained_by_recipe) == 15
    different = {frozenset(objectives.items()) for objectives in trained_by_recipe.values()}
    assert len(different) == 15 - len(CONTROLS)


def test_controls_differ_from_the_method_in_their_target_only(trained_by_recipe):
    for control in CONTROLS:
        assert trained_by_recipe[control] == trained_by_recipe["contrastive-attn-teacher"]


def test_attention_loss_trains_the_backbone_of_guided_recipes_only(trained_by_recipe):
    guided = set()
    for recipe, objectives in trained_by_recipe.items():
        for metrics, parameters in objectives.items():
            if any("kld" in metric for metric in metrics):
                assert parameters or recipe == "contrastive-contracam"
                guided |= {recipe} if any(name.startswith("backbone.") for name in parameters) else set()
    assert guided == set(trained_by_recipe) - {
        "contrastive",
        "supervised",
        "contrastive-self-mask",
        "vicreg",
        "byol",
    }


def test_metric_names_state_the_objective_and_whose_attention_it_is(trained_by_recipe):
    metrics = {
        recipe: {metric for names in objectives for metric in names} for recipe, objectives in trained_by_recipe.items()
    }
    probe, attention = {"probe_loss", "probe_accuracy"}, {"kld", "nss", "attention_cc"}
    assert metrics["contrastive"] == {"contrastive"} | attention | probe
    assert metrics["contrastive-attn-cotrain"] == {"contrastive"} | {f"human_{name}" for name in attention} | probe
    assert metrics["contrastive-self-mask"] == {"contrastive", "mask_mean"} | probe
    assert metrics["contrastive-attn-block"] == {"contrastive", "mask_mean"} | attention | probe
    assert metrics["vicreg"] == {"vicreg", "invariance", "variance", "covariance"} | attention | probe
    assert metrics["byol"] == {"byol"} | attention | probe
    assert metrics["supervised"] == {"cross_entropy", "probe_accuracy"} | attention
