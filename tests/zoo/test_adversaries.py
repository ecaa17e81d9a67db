"""The GAN and the descriptor: what they refuse, what a seed fixes, and that whole runs on images work."""
import pytest
import torch

from inference.measures import to_side
from runs.files import set_seed
from zoo import core, desnet, gan, worlds


def test_a_step_at_which_the_gaussian_alone_diverges_is_refused():
    desnet.DesNet(desnet.Linear(2), 0.1, 0.19, 1)
    with pytest.raises(ValueError, match="below 2 sigma = 0.2"):
        desnet.DesNet(desnet.Linear(2), 0.1, 0.2, 1)


def test_packs_that_do_not_fill_a_batch_are_refused():
    with pytest.raises(ValueError, match="pack divide batch"):
        gan.points_gan(pack=3, batch=128)
    with pytest.raises(ValueError, match="k must be at least 1"):
        gan.points_gan(k=0)


def test_a_pack_is_judged_as_one_and_holds_neighbours():
    model = gan.GAN(core.mlp(2, 8, 2), torch.nn.Linear(4, 1), 2, pack=2, batch=4)
    x = torch.arange(8.0).view(4, 2)
    assert torch.equal(model.logits(x), model.discriminator(torch.arange(8.0).view(2, 4)).squeeze(1))


@pytest.mark.parametrize("make", [gan.points_gan, lambda: desnet.ring_model(n_steps=2)],
                         ids=["gan", "desnet"])
def test_a_seed_fixes_a_run(make):
    data = worlds.ring().sample(100, torch.Generator().manual_seed(0))

    def run(seed):
        set_seed(5)
        model = make().fit(data, steps=3, seed=seed)
        set_seed(5)
        return model.sample(10)

    assert run(0).shape == (10, 2)
    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))


def test_the_penalty_is_on_the_slope_of_d_on_real_items():
    set_seed(0)
    real = torch.randn(8, 2)

    def loss(r1):
        set_seed(1)
        model = gan.GAN(core.mlp(2, 8, 2), torch.nn.Linear(4, 1), 2, pack=2, batch=8, r1=r1)
        return model.discriminator_loss(real), model.discriminator.weight

    (plain, _), (penalised, w) = loss(0.0), loss(0.6)          # the slope of w . x is w, whatever the items
    assert (penalised - plain).item() == pytest.approx(0.3 * w.square().sum().item(), abs=1e-6)


def test_learning_rates_fall_to_nothing_and_a_second_fit_begins_anew():
    model = gan.points_gan()
    data = worlds.ring().sample(100)
    rates = []
    for _ in range(2):
        model.fit(data, steps=2)
        rates += [optimizer.param_groups[0]["lr"] for optimizer in (model.opt_g, model.opt_d)]
        before = model.generator[0].weight.clone()
    model.fit(data, steps=1)
    assert rates == [0.0] * 4 and not torch.equal(before, model.generator[0].weight)


def test_fixed_places_show_the_running_mean_of_the_generator():
    set_seed(0)
    model = gan.points_gan(average=0.9)
    first, mean = [p.detach().clone() for p in model.generator.parameters()], model.mean_generator
    shown = model.snapshot()
    model.fit(worlds.ring().sample(200), steps=1)
    for was, now, kept in zip(first, model.generator.parameters(), mean.parameters(), strict=True):
        assert torch.allclose(kept, 0.9 * was + 0.1 * now, atol=1e-6)
    assert not torch.equal(shown, model.snapshot()) and torch.equal(model.snapshot(), model.snapshot())


def test_augmentation_is_differentiable_and_keeps_what_it_shows(images):
    x = to_side(images, 32).requires_grad_(True)
    seen = gan.augment(x)
    (grad,) = torch.autograd.grad(seen.sum(), x)
    assert seen.shape == x.shape and torch.isfinite(grad).all() and grad.abs().sum() > 0
    assert (seen.mean((1, 2, 3)) - x.mean((1, 2, 3))).abs().max() < 0.5
    assert not torch.equal(gan.augment(x), gan.augment(x))


def test_chains_start_from_each_images_own_mean_colour(images):
    begin = desnet.mean_colour(images)
    assert begin.shape == images.shape
    assert torch.allclose(begin[2, :, 3, 5], images[2].mean((1, 2)), atol=1e-6)
    assert begin.std((2, 3)).max() == 0


@pytest.mark.parametrize("module, side", [(gan, 32), (desnet, 32)])
def test_a_short_run_on_images_makes_images(module, side, images):
    model = module.animals(to_side(images, 32), steps=2)
    x = model.sample(5)
    assert x.shape == (5, 3, side, side) and torch.isfinite(x).all()
    assert len(model.history) == 2 and model.n_parameters > 1000
