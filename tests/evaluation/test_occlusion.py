"""The experiment on hidden pixels: its baselines, its tables and pictures."""
import csv
import dataclasses

import numpy as np
import pytest
import torch
from conftest import SMALL, names
from PIL import Image

import utils
from abp import ABP, Config
from evaluation import occlusion
from inference.masks import hidden_error
from runs.options import UserError

HAND = torch.tensor([[[0.0, 0.2], [0.4, 0.6]],
                     [[1.0, 0.8], [0.0, -0.6]]]).unsqueeze(1).repeat(1, 3, 1, 1)
HAND_SEEN = torch.tensor([[[1.0, 0], [0, 0]], [[1.0, 1], [0, 0]]]).unsqueeze(1)


def test_the_mean_image_is_of_visible_pixels_and_of_all_where_none_is():
    """At the top right only the second image is seen (.8), below none: mean of 0, 1 and .8 is
    .6."""
    filled = occlusion.fill_with_mean(HAND, HAND_SEEN)
    assert torch.allclose(filled[0, 1], torch.tensor([[0.0, 0.8], [0.6, 0.6]]))
    assert torch.allclose(filled[1, 2], torch.tensor([[1.0, 0.8], [0.6, 0.6]]))
    mae = 127.5 * (0.6 + 0.2 + 0.0 + 0.6 + 1.2) / 5  # first image: top right, below; second: below
    assert hidden_error(filled, HAND, HAND_SEEN)["hidden_mae"] == pytest.approx(mae, rel=1e-5)
    hidden = HAND.clone().masked_fill(HAND_SEEN == 0, 9.0)
    assert torch.equal(occlusion.fill_with_mean(hidden, HAND_SEEN), filled)


def test_the_nearest_visible_pixel_fills_hidden_ones_in_its_own_image():
    filled = occlusion.fill_with_nearest(HAND, HAND_SEEN)
    assert torch.equal(filled[0], torch.zeros(3, 2, 2))
    assert torch.allclose(filled[1, 0], torch.tensor([[1.0, 0.8], [1.0, 0.8]]))
    mae = 127.5 * (0.2 + 0.4 + 0.6 + 1.0 + 1.4) / 5
    assert hidden_error(filled, HAND, HAND_SEEN)["hidden_mae"] == pytest.approx(mae, rel=1e-5)
    hidden = HAND.clone().masked_fill(HAND_SEEN == 0, 9.0)
    assert torch.equal(occlusion.fill_with_nearest(hidden, HAND_SEEN), filled)


def test_the_experiment_writes_its_tables_and_pictures(capsys, images, tmp_path):
    file_names = [f"face_0{k}.png" for k in range(1, 7)]
    config = Config(**SMALL | {"mask": "block:2", "start": "cold"})
    rows = occlusion.run(config, images, file_names, tmp_path / "new",
                         masks=["pepper:0.5", "block:5"])
    assert names(tmp_path / "new") == {"occlusion.csv", "occlusion.md", "occlusion.tex",
                                       "occlusion_pepper_0.5.png", "occlusion_block_5.png"}
    assert [row["mask"] for row in rows] == ["pepper:0.5", "block:5"]
    assert capsys.readouterr().out.count("\n") == 2
    assert rows[1]["hidden"] == pytest.approx(100 * 25 / 256)
    with open(tmp_path / "new" / "occlusion.csv", newline="") as file:
        assert [float(row["mae"]) for row in csv.DictReader(file)] == [row["mae"] for row in rows]
    model, seen = ABP(dataclasses.replace(config, mask="block:5", start="warm"), images), []
    for _ in model:
        seen.append(model.net(model.z).detach())
    mean = torch.stack(seen[len(seen) // 2:]).mean(0)
    error = (mean - images)[(model.mask == 0).expand_as(images)].abs()
    assert rows[1]["mae"] == pytest.approx(127.5 * error.mean().item(), rel=1e-4)
    sheet = np.asarray(Image.open(tmp_path / "new" / "occlusion_block_5.png"))[:, 16:]
    masked, recovered, original = (sheet[y:y + 16, :16] for y in (0, 18, 36))
    hidden = model.mask[0, 0].numpy() == 0
    assert np.array_equal(original, utils.to_pixels(images[0])) and (masked[hidden] == 128).all()
    assert np.array_equal(recovered[~hidden], original[~hidden])
    assert np.abs(recovered[hidden].astype(int)
                  - utils.to_pixels(mean[0])[hidden]).max() <= 1


def test_the_masks_of_the_experiment_and_what_it_refuses(images, tmp_path):
    assert occlusion.default_masks(64) == ["pepper:0.5", "pepper:0.7", "pepper:0.9", "block:16",
                                           "block:21"]
    for masks, words in ((["block:4", "none"], "hides nothing"),
                         (["block:4", "block:16"], "is no mask")):
        with pytest.raises(UserError, match=words):
            occlusion.run(Config(**SMALL), images, None, tmp_path / "new", masks=masks)
    assert names(tmp_path) == set()
