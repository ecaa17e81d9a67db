"""BGAN: what it refuses, what a seed fixes, and what weights, bits and the channel must be."""
import math

import pytest
import torch

from runs.files import set_seed
from zoo import bgan, boundary, datasets, gan, metrics, networks


@pytest.mark.parametrize("options, message", [
    ({"form": "per batch"}, "form must be one of batch, per z, uniform, reinforce"),
    ({"m": 0}, "m must be at least 1"), ({"flips": 0.5}, "flips from 0 to below 1/2"),
    ({"k": 0}, "k must be at least 1")])
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bgan.bits_gan(**options)


def test_data_that_are_no_bits_are_refused():
    with pytest.raises(ValueError, match="-1 or 1"):
        bgan.bits_gan().fit(datasets.bars_and_stripes().patterns.clamp(min=0), steps=1)


def test_a_seed_fixes_a_run_and_samples_are_bits():
    def run(seed):
        set_seed(5)
        model = bgan.bits_gan().fit(datasets.bars_and_stripes().patterns, steps=3, seed=seed)
        set_seed(5)
        return model.sample(200)

    assert run(0).shape == (200, 16) and run(0).unique().tolist() == [-1, 1]
    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))


def test_bars_and_stripes_are_thirty_and_as_likely():
    world = datasets.bars_and_stripes()
    every = 2.0 * torch.cartesian_prod(*[torch.arange(2)] * 16) - 1
    log_p = torch.cat([world.log_prob(x) for x in every.split(4096)])
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)
    squares = every[log_p.isfinite()].view(-1, 4, 4)
    assert len(squares) == 30 and torch.equal(world.counts(world.patterns), torch.ones(30).long())
    assert all((x == x[:, :1]).all() or (x == x[:1]).all() for x in squares)
    assert datasets.bars_and_stripes(3).patterns.shape == (14, 9)


def test_one_pattern_is_valid_and_no_coverage():
    world = datasets.bars_and_stripes()
    collapsed = metrics.pattern_coverage(world.patterns[:1].expand(500, -1), world)
    assert collapsed == (1, 1.0, pytest.approx(math.log(30)))
    full = metrics.pattern_coverage(world.sample(30_000, torch.Generator().manual_seed(0)), world)
    assert full.modes == 30 and full.quality == 1 and full.kl < 1e-3


def test_weights_add_up_over_the_batch_or_for_each_z_and_are_held_fixed():
    logit = torch.randn(5, 4, requires_grad=True)
    whole, each = boundary.normalised(logit), boundary.normalised(logit, per_z=True)
    assert whole.sum().item() == pytest.approx(1) and torch.allclose(each.sum(1), torch.full((5,), 0.2))
    assert torch.allclose(whole / whole[0, 0], (logit - logit[0, 0]).exp(), rtol=1e-4)
    assert not whole.requires_grad and not each.requires_grad
    log_g = torch.randn(5, 4, requires_grad=True)
    for loss in bgan.FORMS.values():
        assert torch.autograd.grad(loss(logit, log_g, 0.3), logit, allow_unused=True) == (None,)


def test_per_z_weights_hide_what_d_thinks_of_a_z_that_draws_one_item():
    logit = torch.tensor([[3.0, 3.0], [-3.0, -3.0]])
    assert torch.equal(boundary.normalised(logit, per_z=True), torch.full((2, 2), 0.25))
    assert boundary.normalised(logit)[0].sum() > 0.99


def test_effective_sizes_are_from_one_to_all():
    logit = torch.tensor([[0.0, 0.0, 0.0, 0.0], [80.0, 0.0, 0.0, 0.0], [9.0, 9.0, -90.0, -90.0]])
    assert torch.allclose(boundary.effective_size(logit), torch.tensor([4.0, 1.0, 2.0]))


def test_v_of_the_gan_divergence_is_the_value_of_the_gan():
    real, fake = torch.randn(40), torch.randn(50)
    assert boundary.bound(real, fake, boundary.DIVERGENCES["GAN"]).item() == pytest.approx(
        gan.value(real, fake).item(), abs=1e-6)


def test_log_g_is_that_of_the_bits_that_are_drawn():
    set_seed(0)
    logits = bgan.channel(torch.tensor([[[30.0, -1.0, 0.5]]]), 0.1)
    every = 2.0 * torch.cartesian_prod(*[torch.arange(2)] * 3)[None] - 1
    p = bgan.log_bits(every, logits).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    drawn = bgan.draw(logits.expand(1, 40_000, 3))
    share = (drawn[:, :, None] == every[:, None]).all(3).float().mean(1)
    assert (share - p).abs().max() < 0.01
    assert (drawn[0, :, 0] == -1).float().mean().item() == pytest.approx(0.1, abs=0.01)     # of a certain bit


def test_a_channel_that_turns_nothing_over_changes_nothing():
    logits = torch.linspace(-8, 8, 9)
    assert torch.allclose(bgan.channel(logits, 0.0), logits, atol=0.01)
    assert bgan.channel(torch.tensor([200.0, -200.0]), 0.0).isfinite().all()


def test_d_reads_bits_and_fewer_of_them_turned_over(monkeypatch):
    set_seed(0)
    model, read = bgan.bits_gan(flips=0.4), []
    model.discriminator.register_forward_hook(lambda net, x, _: read.append(x[0].detach()))
    data = torch.ones(64, 16)
    model.fit(data, steps=10)
    assert all((x.abs() == 1).all() for x in read)
    turned = [(x < 0).float().mean().item() for x in read[::3]]             # of D's batches of real items
    assert turned[0] == pytest.approx(0.4, abs=0.06) and turned[-1] == pytest.approx(0.04, abs=0.03)
    assert model.rate == 0 and len(model.sizes) == len(model.history) == 10


def test_samples_do_not_depend_on_what_is_drawn_with_them():
    set_seed(0)
    model = bgan.bits_gan().fit(datasets.bars_and_stripes().patterns, steps=3)
    z = torch.randn(6, model.nz)
    assert not model.generator.training
    assert torch.allclose(model.generator(z)[:2], model.generator(z[:2]), atol=1e-5)


def test_the_continuous_form_descends_the_square_of_the_logits():
    set_seed(0)
    model = bgan.ContinuousBGAN(networks.mlp(2, 8, 2), networks.mlp(2, 8, 1), 2, batch=4)
    set_seed(1)
    loss = model.generator_loss()
    set_seed(1)
    assert loss.item() == pytest.approx(model.logits(model.sample(4)).square().mean().item(), abs=1e-6)


def test_a_short_run_on_images_makes_pictures_in_black_and_white(images):
    model = bgan.animals(torch.nn.functional.interpolate(images, scale_factor=4), steps=2)
    x = model.sample(5)
    assert x.shape == (5, 3, 16, 16) and (x.abs() == 1).all() and torch.equal(x[:, 0], x[:, 2])
    assert len(model.history) == 2 and model.n_parameters > 1000 and not hasattr(model, "log_prob")
