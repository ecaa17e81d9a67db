"""Small networks that the models share."""
import itertools

from torch import nn


def mlp(*sizes, activation=nn.ReLU):
    """Linear layers with activations between them: (n, sizes[0]) -> (n, sizes[-1])."""
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*[part for layer in layers for part in (layer, activation())][:-1])


def n_parameters(*modules):
    """Number of parameters of the modules."""
    return sum(p.numel() for module in modules for p in module.parameters())
