"""What every model of the zoo shares: what it may be able to do, checks, and the one adversarial loop.

A file of zoo/ holds one model, its networks and its objective; the file of the same name in zoo/bars/ holds
the model to what it must reach. They are called by the names of their functions: in zoo/bars/

    exact() -> list of Check            closed forms; seconds; every test run
    bench(seed=0) -> list of Check      trained on data whose truth is known; minutes

and in zoo/ itself

    animals(data, seed=0) -> Sampler    trained on images (n, 3, 64, 64) in [-1, 1], for the contact sheet;
                                        an argument `kinds`, n texts, is given what each image is
    seen(images) -> images              what of real images samples can show, to be compared with; without it
                                        pixels are averaged down to the size of the samples

Any of them may be missing. Who calls them seeds the global generators (files.set_seed) before; `seed` is for
what draws otherwise. There is no base class: what a model can do is seen from what it has.
"""
import importlib
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch

MODELS = (                       # names of the models, in the order of tables and of the sheet
    "samplers",
    "abp",
    "vae",
    "fa",
    "desnet",
    "gan",
    "pixelcnn",
    "pixelrnn",
    "began",
    "ppgn",
    "bgan",
    "seqgan",
    "maskgan",
)


def home(name, action):
    """The module that has the function `action` of the model `name`; None if the model lacks it."""
    module = f"zoo.{name}" if action == "animals" else f"zoo.bars.{name}"
    if importlib.util.find_spec(module) is None:
        return None
    module = importlib.import_module(module)
    return module if hasattr(module, action) else None


@runtime_checkable
class Sampler(Protocol):
    """Every model: draws from what it learned."""

    def sample(self, n: int) -> torch.Tensor:
        """n items (n, ...), from torch's global generator."""


@runtime_checkable
class Density(Protocol):
    """A model whose density can be evaluated, or bounded from below."""
    exact: bool                  # whether log_prob is the density itself, and no bound of it

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """log p(x) in nats, (n, ...) -> (n,)."""


@runtime_checkable
class Energy(Protocol):
    """A model whose density is known up to a constant: what samplers.py samples."""

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        """-log p(x) up to a constant, in nats, (n, ...) -> (n,)."""


@runtime_checkable
class Coder(Protocol):
    """A model that explains given items."""

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """Items like x (n, ...), as the model can make them."""


@dataclass(frozen=True)
class Check:
    """A measured value and the bounds within which it must lie.

    controls  {what was broken on purpose: the value that this gives}. Each must lie outside the bounds: it is
              the proof that the check can fail
    """
    name: str                    # what was measured, with its unit
    value: float
    lo: float = -math.inf
    hi: float = math.inf
    source: str = ""             # of the bounds: the paper and equation, or how they were chosen
    controls: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if math.isinf(self.lo) and math.isinf(self.hi):
            raise ValueError(f"{self.name}: a check without a bound cannot fail")

    def within(self, value):
        """Whether a value lies within the bounds; nan does not."""
        return self.lo <= value <= self.hi

    @property
    def ok(self):
        """Whether the value is within the bounds and every control is not."""
        return self.within(self.value) and not any(map(self.within, self.controls.values()))


