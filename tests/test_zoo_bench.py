"""The zoo's models, trained where the truth is known, meet their bars: minutes. python -m pytest -m slow"""
import importlib

import pytest

from utils import set_seed
from zoo.core import MODELS

BENCHES = [name for name in MODELS if hasattr(importlib.import_module(f"zoo.{name}"), "bench")]


# bars missed on seed 0, shown as failed in zoo/README.md: BEGAN's digits collapse to a few classes; MaskGAN's
# discriminator can tell little of so good a filler, and the game gains nothing from it
MISSED = {"gamma = 0.7: classes of 10 with 2 % of the samples", "gamma = 0.7: pair distance / real",
          "D before the game: AUC on missing tokens, held-out against drawn",
          "MaskGAN: KL of a fill to the posterior less MaskMLE's [nats]",
          "MaskGAN: log p of a drawn token less MaskMLE's [nats]",
          "MaskGAN: entropy of a drawn token less MaskMLE's [nats]"}


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHES)
def test_bench(name):
    set_seed(0)
    checks = importlib.import_module(f"zoo.{name}").bench(0)
    assert not [check for check in checks if not check.ok and check.name not in MISSED]
