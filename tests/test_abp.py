"""The two steps of the algorithm, the options, errors, and training from Python."""
import dataclasses
import math
import subprocess
import sys
import threading

import pytest
import torch
from conftest import ROOT, SMALL

from abp import ABP, PRESETS, Config, fit
from models import GenNet
from runs.options import UserError, parse_args


def test_only_warm_chains_continue_from_the_last_epoch(make_model):
    def inferred(start, stored):
        model = make_model(start, prior_draws=0)
        model.z = torch.full_like(model.z, stored)
        torch.manual_seed(0)
        model.infer(torch.arange(6))
        return model.z

    assert torch.equal(inferred("cold", -1.0), inferred("cold", 1.5))
    assert not torch.equal(inferred("warm", -1.0), inferred("warm", 1.5))
    warm, cold = make_model("warm", prior_draws=0), make_model("cold")
    assert torch.equal(warm.chain_start(warm.posterior(warm.images), warm.z), warm.z)
    assert torch.equal(warm.z, cold.z)
    assert torch.equal(warm.net(warm.z), cold.net(cold.z))     # the same generator at first


@pytest.mark.parametrize("draws", [0, 16])
def test_cold_starts_are_fresh_draws_of_the_prior(make_model, draws):
    model = make_model("cold", prior_draws=draws, prior_sigma=3.0)
    flat = model.posterior(model.images, 1e4)
    first, second = (model.chain_start(flat, model.z) for _ in range(2))
    assert not (first[:, None] == second[None]).all(-1).any()
    starts = torch.cat([model.chain_start(flat, model.z) for _ in range(300)])
    assert torch.allclose(starts.std(0), torch.tensor([3.0, 3.0]), rtol=0.08)


@pytest.mark.parametrize("step_size", [0.0, 0.05])
def test_learning_uses_the_inferred_latents_without_gradients(make_model, step_size):
    model = make_model(z_noise=0.0, langevin_step_size=step_size, langevin_num_steps=2)
    before, index, seen = model.z.clone(), torch.arange(6), []
    model.infer(index)
    assert not torch.equal(model.z, before) and not model.z.requires_grad
    assert all(p.grad is None for p in model.net.parameters())
    model.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.learn(index, 0.0)
    assert len(seen) == 1 and torch.equal(seen[0], model.z)


def test_z_noise_widens_the_latents_of_the_learning_step(make_model):
    model, seen = make_model(z_noise=0.3, prior_sigma=2.0), []
    model.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for _ in range(200):
        model.learn(torch.arange(6), 0.0)
    assert (torch.stack(seen) - model.z).std() == pytest.approx(0.6, rel=0.05)


@pytest.mark.parametrize("mask", ["none", "pepper:0.6"])
def test_the_gradient_norm_is_that_of_equation_7(make_model, mask):
    model = make_model(mask=mask, z_noise=0.0, mse_sigma=0.5)
    error = model.images - model.net(model.z)
    error = error if model.mask is None else error * model.mask
    loss = error.square().sum((1, 2, 3)).mean() / (2 * 0.5**2)
    grads = torch.autograd.grad(loss, list(model.net.parameters()))
    expected = torch.stack([grad.norm() for grad in grads]).norm()
    assert model.learn(torch.arange(6), 0.0).item() == pytest.approx(expected.item(), rel=1e-3)


def test_batches_visit_every_image_once_per_epoch(make_model):
    model, visited = make_model(batch_size=4, n_epochs=3), []
    infer = model.infer
    model.infer = lambda index: visited.append(index) or infer(index)
    list(model)
    assert [len(v) for v in visited] == [3, 3] * 3
    for k in range(3):
        assert sorted(torch.cat(visited[2 * k:2 * k + 2]).tolist()) == list(range(6))


def test_passes_per_epoch(make_model):
    """Per image: 16 shared draws and 1 own forward pass, 2 evaluations of 1 + nz, 2 learning steps
    of 3."""
    warm, cold = (next(iter(make_model(start)))["passes"] for start in ("warm", "cold"))
    assert warm == pytest.approx(16 / 6 + 1 + 2 * 3 + 2 * 3) and cold == pytest.approx(warm - 1)


@pytest.mark.parametrize("nz, img_size", [(1, 16), (2, 32), (2, 64), (5, 128), (100, 32)])
def test_generator_shapes_range_and_independence(nz, img_size):
    torch.manual_seed(0)
    net, z = GenNet(nz, img_size), torch.randn(3, nz)
    with torch.no_grad():
        images, others = net(z), net(torch.cat([z[:1], 5 * torch.randn(4, nz)]))
        alone = torch.cat([net(z[i:i + 1]) for i in range(3)])
    assert images.shape == (3, 3, img_size, img_size) and images.abs().max() <= 1
    assert torch.allclose(images, alone, atol=1e-5)
    assert torch.allclose(images[:1], others[:1], atol=1e-5)
    assert not torch.allclose(images[0], images[1], atol=1e-3)


@pytest.mark.parametrize("sizes", [{"img_size": 8}, {"img_size": 96}])
def test_invalid_sizes_of_the_generator(sizes):
    with pytest.raises(ValueError, match="must be"):
        GenNet(**sizes)


def test_options_have_a_type_a_meaning_and_a_range():
    for f in dataclasses.fields(Config):
        assert f.type in (bool, int, float, str) and len(f.metadata["meaning"]) > 10
        assert type(f.default) is f.type
        assert f.type in (str, bool) or f.metadata["low"] <= f.default <= f.metadata["high"]


@pytest.mark.parametrize("option, value", [
    ("lr", 1e-3), ("langevin_num_steps", 2), ("langevin_step_size", 0.02), ("mse_sigma", 2.0),
    ("seed", 2), ("prior_sigma", 1.5), ("beta1", 0.5), ("beta2", 0.9), ("gamma", 0.5),
    ("lr_end", 0.5), ("n_epochs", 9), ("z_noise", 0.0), ("learn_num_steps", 3),
    ("prior_draws", 0), ("sigma_start", 5.0), ("hidden", 16), ("batch_size", 4), ("nz", 3),
    ("img_size", 32), ("sampler", "mala")])
def test_every_option_changes_training(images, option, value):
    def latents(**changed):
        options = SMALL | {"sigma_start": 10.0} | changed
        model = ABP(Config(**options),
                    torch.nn.functional.interpolate(images, size=options["img_size"]))
        for _, row in zip(range(6), model, strict=False):
            assert math.isfinite(row["loss"])
        return model.z

    a, b = latents(), latents(**{option: value})
    assert a.shape != b.shape or not torch.equal(a, b)


def test_learning_rate():
    """Warm-up and a cosine, or, as in the course, the factor gamma per epoch."""
    config = Config(lr=1e-3, lr_end=0.1)
    rates = [config.learning_rate(k / 1000) for k in range(1000)]
    assert rates[0] < 0.05e-3 and max(rates) == pytest.approx(1e-3, rel=0.02)
    assert rates[-1] == pytest.approx(1e-4, rel=0.01) and min(rates[100:]) > 0.99e-4
    config = Config(lr=1e-3, gamma=0.996, n_epochs=7)
    rates = [config.learning_rate((epoch + k / 3) / 7) for epoch in range(7) for k in range(3)]
    assert rates == pytest.approx([1e-3 * 0.996**epoch for epoch in range(7) for _ in range(3)])


@pytest.mark.parametrize("batch_size", [2, 6])
def test_the_learning_rate_of_a_run_has_one_maximum(make_model, batch_size):
    """It rises once and then falls, for any number of batches per epoch."""
    model, rates = make_model(batch_size=batch_size, n_epochs=10, prior_draws=0), []
    learn = model.learn

    def record(index, progress):
        rates.append(model.config.learning_rate(progress))
        return learn(index, progress)

    model.learn = record
    list(model)
    top = rates.index(max(rates))
    assert len(rates) == 10 * 2 * (6 // batch_size)
    assert rates[:top + 1] == sorted(rates[:top + 1]) and rates[top:] == sorted(rates[top:])[::-1]


def test_handout_preset():
    config, given = parse_args(Config, ["--preset", "handout", "--mse_sigma=2"], presets=PRESETS)
    assert config.chosen_sampler == "langevin" and config.langevin_step_size > 0
    assert (config.prior_draws, config.learn_num_steps, config.z_noise) == (0, 1, 0)
    assert config.mse_sigma == 2
    assert [config.sigma(k) for k in (0, 100, 239)] == pytest.approx([2, 2, 2])      # no annealing
    assert {"mse_sigma", "langevin_step_size"} <= given


def test_sigma_is_annealed_to_mse_sigma():
    config = Config(mse_sigma=2.0, sigma_start=8.0, n_epochs=100)
    assert config.sigma(0) == 8.0 and config.sigma(30) == pytest.approx(4.0)
    assert config.sigma(60) == 2.0 == config.sigma(99)
    assert Config(mse_sigma=20.0, sigma_start=8.0).sigma(0) == 20.0
    assert Config(langevin_step_size=0.5).sigma(0) == Config().sigma(0)


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("s, fraction", [(1.0, 1.0), (0.02, 0.0)])
def test_fraction_of_unstable_chains(make_linear, s, fraction, n_steps):
    model, mean, _ = make_linear(1.0, n=50, langevin_step_size=s, langevin_num_steps=n_steps,
                                 n_epochs=1, prior_draws=0)
    model.z = mean.expand(50, 2).clone()
    row = next(iter(model))
    assert abs(row["unstable"] - fraction) < 0.2 and row["step"] == pytest.approx(s)


def test_non_finite_weights_stop_the_run(make_model):
    model = make_model()
    next(iter(model))
    with torch.no_grad():
        model.net.deconv[0].weight.fill_(math.nan)
    with pytest.raises(UserError, match=r"image \d.*epoch 2.*--lr"):
        list(model)


def test_importing_prints_nothing_and_needs_no_screen():
    code = "import sys, abp; assert 'matplotlib.pyplot' not in sys.modules"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code],
                          cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_fit_in_a_thread(images):
    found = []
    options = {k: SMALL[k] for k in ("hidden", "width", "n_epochs", "prior_draws", "device",
                                     "precision")}
    thread = threading.Thread(target=lambda: found.extend(fit(images.numpy(), **options)))
    thread.start()
    thread.join()
    net, z, history = found
    assert z.shape == (6, 2) and not net.training and net(z).shape == images.shape
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("images, options, words", [
    (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), {}, "uint8"),
    (torch.zeros(2, 1, 16, 16), {}, "shape"), (torch.zeros(2, 3, 16, 8), {}, "shape"),
    (torch.full((2, 3, 16, 16), 2.0), {}, "range"),
    (torch.zeros(2, 3, 20, 20), {}, "power of two"),
    (torch.zeros(2, 3, 16, 16), {"lr": -1}, "--lr"),
    (torch.zeros(2, 3, 16, 16), {"start": "both"}, "start"), ("images", {}, "array")])
def test_fit_with_invalid_images_or_options(images, options, words):
    with pytest.raises(UserError, match=words):
        fit(images, **options)


def test_a_generator_may_hold_parameters_that_do_not_learn(make_model):
    model = make_model()
    model.net.unused = torch.nn.Parameter(torch.ones(3))
    model.net.deconv[0].weight.requires_grad_(False)
    assert torch.isfinite(model.learn(torch.arange(6), 0.0))
