"""Learning from incomplete images: which pixels a mask hides, and that nothing hidden has any influence."""
import numpy as np
import pytest
import torch
from PIL import Image

from masks import hidden_error, hide, make_mask, parse_mask
from options import UserError

# ---- masks

@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_pepper_hides_its_share_of_pixels_at_random_in_every_image(share):
    mask = make_mask(f"pepper:{share}", 40, 32, seed=1)
    assert mask.shape == (40, 1, 32, 32) and mask.dtype == torch.float32
    assert set(mask.unique().tolist()) == {0, 1}
    hidden = 1 - mask
    assert hidden.mean() == pytest.approx(share, abs=0.01)
    assert (hidden.mean((1, 2, 3)) - share).abs().max() < 0.06
    assert hidden.mean(0).std() == pytest.approx((share * (1 - share) / 40) ** 0.5, rel=0.15)
    assert not torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("side", [1, 5, 15])
def test_block_hides_one_square_anywhere_in_every_image(side):
    hidden = 1 - make_mask(f"block:{side}", 400, 16, seed=1)[:, 0]
    rows, columns = (hidden.amax(dim) for dim in (2, 1))
    assert torch.equal(hidden, rows[:, :, None] * columns[:, None, :])
    assert (rows.sum(1) == side).all() and (columns.sum(1) == side).all()
    places = torch.stack([rows.argmax(1), columns.argmax(1)], 1)
    assert (rows.diff(dim=1).clamp(min=0).sum(1) <= 1).all()                # in one piece
    assert places.min() == 0 and places.max() == 16 - side
    assert not torch.equal(places[:, 0], places[:, 1])


def test_a_file_is_white_where_pixels_are_seen_whatever_its_size_and_mode(tmp_path):
    grey = np.zeros((20, 40), np.uint8)
    grey[:10, 10:30] = 128                  # the upper half of the square at the centre
    grey[10:, 10:30] = 127
    for k, image in enumerate((Image.fromarray(grey), Image.fromarray(grey).convert("1", dither=0),
                               Image.fromarray(grey).convert("RGB").resize((80, 40), 0))):
        image.save(tmp_path / f"{k}.png")
        mask = make_mask(str(tmp_path / f"{k}.png"), 3, 16, seed=1)
        assert mask.shape == (3, 1, 16, 16)
        assert (mask[:, :, :8] == 1).all() and (mask[:, :, 8:] == 0).all()


@pytest.mark.parametrize("text", ["pepper:0.5", "block:4"])
def test_a_mask_follows_its_seed_and_leaves_other_random_numbers_alone(text):
    torch.manual_seed(0)
    first = make_mask(text, 6, 16, seed=3)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(first, make_mask(text, 6, 16, seed=3))
    assert not torch.equal(first, make_mask(text, 6, 16, seed=4))


@pytest.mark.parametrize("text", ["none", "pepper:0", "pepper:0.0"])
def test_where_nothing_is_hidden_there_is_no_mask(text):
    assert make_mask(text, 2, 16, seed=1) is None


@pytest.mark.parametrize("text, words", [
    ("pepper:2", "from 0 to below 1"), ("pepper:1", "from 0 to below 1"), ("pepper:-0.1", "pepper:P"),
    ("pepper", "pepper:P"), ("pepper:nan", "pepper:P"), ("pepper:half", "pepper:P"),
    ("block:16", "from 1 to 15 pixels"), ("block:0", "block:K"), ("block:2.5", "block:K"),
    ("block", "block:K"), ("", "is empty; give none")])
def test_a_text_that_is_no_mask_is_refused_with_the_remedy(text, words):
    with pytest.raises(UserError, match="^--mask") as error:
        parse_mask(text, 16)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_no_masks_and_masks_that_hide_all_are_refused(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("text")
    for text, words in ((str(tmp_path / "black.png"), "paint white"), ("pepper:0.999", "a smaller share"),
                        (str(tmp_path / "text.png"), "cannot be read as an image"),
                        (str(tmp_path), "no such file"), ("peper:0.5", "no such file; give none, pepper:P")):
        with pytest.raises(UserError, match="^--mask") as error:
            make_mask(text, 50, 16, seed=1)
        assert words in str(error.value) and "\n" not in str(error.value)


def test_errors_are_those_of_hidden_pixels_on_the_scale_of_a_file():
    images = torch.tensor([0.0, 51, 102, 255]).view(1, 1, 2, 2).expand(1, 3, 2, 2) / 127.5 - 1
    mask = torch.tensor([1.0, 0, 0, 1]).view(1, 1, 2, 2)
    recovered = images + torch.tensor([9.0, 10, -20, 9]).view(1, 1, 2, 2) / 127.5
    found = hidden_error(recovered, images, mask)
    assert found == {"hidden_mae": pytest.approx(15, abs=1e-4),
                     "hidden_relative": pytest.approx(30 / 153, abs=1e-6)}
    assert hide(images, mask)[0, 0].tolist() == [[-1, 0], [0, 1]]
