"""BEGAN and PPGN: what they refuse, what a seed fixes, shapes, and that a run on images works."""
import pytest
import torch

from inference.measures import to_side
from runs.files import set_seed
from zoo import began, codes, core, ppgn
from zoo.bars import ppgn as bars


@pytest.mark.parametrize("options, message", [
    ({"gamma": 0.0}, "gamma must be above 0"), ({"gamma": 1.5}, "gamma must be above 0"),
    ({"gamma": 0.5, "rate": -1.0}, "rate must be at least 0"),
    ({"gamma": 0.5, "patience": 0}, "patience at least 1")])
def test_options_out_of_range_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        began.digit_began(**options)
    assert "\n" not in str(error.value)


def test_a_denoiser_without_noise_has_no_rates():
    assert ppgn.langevin_rates(0.2, 0.5, 3.0) == pytest.approx((0.08, 0.06, 0.2))
    for t, s in ((0.0, 0.5), (0.2, 0.0)):
        with pytest.raises(ValueError, match="must be above 0"):
            ppgn.langevin_rates(t, s)


def test_k_stays_between_0_and_1():
    assert began.next_k(0.5, 1.0, 0.2, 0.5, 0.1) == pytest.approx(0.53)
    assert began.next_k(0.99, 1.0, 0.2, 0.5, 0.1) == 1.0 and began.next_k(0.01, 0.2, 1.0, 0.5, 0.1) == 0.0
    assert began.convergence(1.0, 0.2, 0.5) == pytest.approx(1.3) == began.convergence(1.0, 0.8, 0.5)


@pytest.mark.parametrize("patience, rates", [(1, [4e-4, 2e-4, 1e-4]), (1000, [4e-4])])
def test_the_learning_rate_is_halved_where_m_stalls_down_to_the_floor(patience, rates):
    model = began.digit_began(0.5, batch=4, lr=4e-4, floor=1e-4, patience=patience)
    model.fit(torch.rand(50, 64), steps=40)
    seen = [row[4] for row in model.history]
    assert sorted(set(seen), reverse=True) == pytest.approx(rates) and seen == sorted(seen, reverse=True)


def test_a_seed_fixes_a_run_of_began():
    data = torch.rand(50, 64)

    def run(seed):
        set_seed(5)
        model = began.digit_began(0.5, batch=8).fit(data, steps=3, seed=seed)
        set_seed(5)
        return model.sample(10)

    assert run(0).shape == (10, 64)
    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))


def test_a_short_run_on_images_makes_and_explains_images(images):
    model = began.animals(to_side(images, 32), steps=2)
    assert isinstance(model, core.Sampler) and isinstance(model, core.Coder)
    x = model.sample(5)
    assert x.shape == (5, 3, 32, 32) and torch.isfinite(x).all()
    assert model.reconstruct(x).shape == x.shape
    assert len(model.history) == 2 and model.n_parameters > 1000


@pytest.fixture(scope="module")
def steered():
    """The variants of PPGN on 40 items of 12 numbers, taught for a moment."""
    set_seed(0)
    return ppgn.variants(codes.Codes(torch.randn(40, 12), d=3, steps=2), core.mlp(12, 8, 4))


def test_every_variant_draws_items_and_a_seed_fixes_them(steered):
    def draw(model, seed, y=None):
        set_seed(seed)
        return model.sample(6, y, n_steps=4)

    for model in steered.values():
        assert isinstance(model, core.Sampler)
        x = draw(model, 1)
        assert x.shape == (6, 12) and torch.isfinite(x).all() and not x.requires_grad
        assert torch.equal(x, draw(model, 1)) and not torch.equal(x, draw(model, 2))
    with pytest.raises(ValueError, match="6 chains need as many classes, not 2"):
        draw(steered["PPGN-h"], 0, torch.tensor([0, 1]))


def test_chains_do_not_see_each_other(steered):
    model = steered["noiseless"]
    h, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    together = model.chains(h, y, 6)
    assert torch.allclose(together[2:3], model.chains(h[2:3], y[2:3], 6), atol=1e-5)


def test_codes_are_white_and_steering_raises_the_class(steered):
    set_seed(0)
    x = torch.randn(200, 12)
    found = codes.Codes(x, d=3, steps=20)
    assert torch.allclose(found.codes.T.cov(), torch.eye(3), atol=1e-3)
    assert found.codes.mean(0).abs().max() < 1e-3
    model, h, y = steered["PPGN-h"], torch.randn(50, 3), torch.ones(50, dtype=torch.int64)
    climb = ppgn.PPGN(model.generator, model.denoise, model.classifier, ppgn.Rates(0.0, 0.1, 0.0), 3)
    with torch.no_grad():
        before, after = (ppgn.log_class(model.logits(at), y).mean() for at in (h, climb.chains(h, y, 20)))
    assert after > before


def test_a_generator_of_faces_is_steered_towards_each_kind_in_turn():
    x, y = bars.new_faces(12, 0)
    kinds = ["lion" if lion else "tiger" for lion in y]
    set_seed(0)
    model = ppgn.animals(x, 0, kinds, side=16, width=2, hidden=32, n_epochs=3)
    images = model.sample(5, n_steps=2)
    assert images.shape == (5, 3, 16, 16) and images.isfinite().all() and model.classes == 2

    class Bright(torch.nn.Module):              # tells the sign of z_1, whatever the images are
        def forward(self, z):
            return z.view(-1, 2, 1, 1)[:, [0]].expand(-1, 3, 16, 16)

    model.net, model.classifier = Bright(), lambda x: 20 * torch.stack([x[:, 0, 0, 0], -x[:, 0, 0, 0]], 1)
    z = model.sample(200)[:, 0, 0, 0]
    assert (z[::2] > 0).float().mean() > 0.95 and (z[1::2] < 0).float().mean() > 0.95
