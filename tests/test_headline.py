"""The results of a default run stay what they are: a small run in seconds, the full one marked
slow."""
import json

import pytest
from conftest import ROOT

import abp
import utils

SMALL_RUN = {"img_size": 32, "n_epochs": 40, "precision": "fp32", "device": "cpu"}


@pytest.mark.parametrize("start, psnr", [("warm", 24.4), ("cold", 23.9)])
def test_a_small_run_on_the_drawn_faces(start, psnr):
    images, _ = utils.load_img_tensors(ROOT / "data" / "drawn", 32)
    model = abp.ABP(abp.Config(**SMALL_RUN), images, start)
    row = list(model)[-1]
    assert row["psnr"] == pytest.approx(psnr, abs=1.0)
    assert 0.6 < row["z_mean_square"] < 1.8 and row["unstable"] < 0.1


@pytest.mark.slow
def test_the_default_run(tmp_path):
    """Seed 1; tolerances are at least the range over seeds 1 to 3 (docs/benchmark.md)."""
    assert abp.main([f"--out={tmp_path / 'run'}"]) == 0
    for start, psnr in (("warm", 33.2), ("cold", 31.1)):
        metrics = json.loads((tmp_path / "run" / start / "metrics.json").read_text())
        assert metrics["psnr"] == pytest.approx(psnr, abs=0.6)
        assert metrics["z_mean_square"] == pytest.approx(1.1, abs=0.3)
        assert metrics["sample_nearest_psnr"] == pytest.approx(28.4, abs=1.0)
