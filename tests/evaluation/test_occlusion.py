"""The experiment on hidden pixels: baselines, table and pictures."""
import dataclasses

import numpy as np
import pytest
import torch
from conftest import SMALL
from PIL import Image

import utils
from abp import ABP, Config
from evaluation import occlusion
from inference.masks import hidden_error

HAND = torch.tensor([[[0.0, 0.2], [0.4, 0.6]],
                     [[1.0, 0.8], [0.0, -0.6]]]).unsqueeze(1).repeat(1, 3, 1, 1)
VISIBLE = torch.tensor([[[1.0, 0], [0, 0]], [[1.0, 1], [0, 0]]]).unsqueeze(1)


@pytest.mark.parametrize("fill, expected", [        # the mean of all visible pixels is .6
    (occlusion.fill_with_mean, [[[0.0, 0.8], [0.6, 0.6]], [[1.0, 0.8], [0.6, 0.6]]]),
    (occlusion.fill_with_nearest, [[[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.8], [1.0, 0.8]]])])
def test_baselines_fill_hidden_pixels_from_visible_ones(fill, expected):
    expected = torch.tensor(expected).unsqueeze(1).expand(-1, 3, -1, -1)
    for images in (HAND, HAND.masked_fill(VISIBLE == 0, 9.0)):
        assert torch.allclose(fill(images, VISIBLE), expected)
    gap = (expected - HAND).abs()[:, 0][VISIBLE[:, 0] == 0]
    mae = hidden_error(fill(HAND, VISIBLE), HAND, VISIBLE)["hidden_mae"]
    assert mae == pytest.approx(127.5 * gap.mean().item(), rel=1e-5)


def test_recovered_pixels_are_means_over_the_second_half_of_training(images, tmp_path):
    config = Config(**SMALL | {"mask": "block:2", "start": "cold"})
    rows = occlusion.run(config, images, None, tmp_path, "cpu", "fp32")
    assert [row["mask"] for row in rows] == [
        "pepper:0.5", "pepper:0.7", "pepper:0.9", "block:4", "block:5"]
    assert rows[4]["hidden"] == pytest.approx(100 * 25 / 256)
    model = ABP(dataclasses.replace(config, mask="block:5", start="warm"), images)
    epochs = [model.net(model.z).detach() for _ in model]
    mean = torch.stack(epochs[len(epochs) // 2:]).mean(0)
    error = (mean - images)[(model.mask == 0).expand_as(images)].abs()
    assert rows[4]["mae"] == pytest.approx(127.5 * error.mean().item(), rel=1e-4)
    sheet = np.asarray(Image.open(tmp_path / "occlusion_block_5.png"))[:, 16:]
    masked, recovered, original = (sheet[y:y + 16, :16] for y in (0, 18, 36))
    hidden = model.mask[0, 0].numpy() == 0
    assert np.array_equal(original, utils.to_pixels(images[0])) and (masked[hidden] == 128).all()
    assert np.array_equal(recovered[~hidden], original[~hidden])
    wanted = utils.to_pixels(mean[0])[hidden]
    assert np.abs(recovered[hidden].astype(int) - wanted).max() <= 1
