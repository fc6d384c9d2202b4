"""Optimizers."""

from elucid.training.registry.components import make


def make_optimizer(component: dict, named_parameters):
    return make(component, "optimizer", "optimizer", params=[parameter for _, parameter in named_parameters])
