"""The zoo's models, trained where the truth is known, meet their bars: minutes. python -m pytest -m slow"""
import importlib

import pytest

from utils import set_seed
from zoo.core import MODELS

BENCHES = [name for name in MODELS if hasattr(importlib.import_module(f"zoo.{name}"), "bench")]


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHES)
def test_bench(name):
    set_seed(0)
    failed = [check for check in importlib.import_module(f"zoo.{name}").bench(0) if not check.ok]
    assert not failed
