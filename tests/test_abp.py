"""The algorithm: what the public solutions get wrong is held here, one behaviour a test."""
import dataclasses
import inspect
import math
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALL

import utils
from abp import ABP, Config
from inference import measures
from inference.posterior import sample_gaussian_prior
from models import GenNet
from runs.options import UserError

FIT = {"langevin_step_size": 0.0, "langevin_num_steps": 30}


# ---- the posterior: step 1 against closed forms

@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("nz", [1, 2, 5])
def test_smmala_samples_the_posterior_of_a_linear_generator(make_linear, sigma, nz):
    model, mean, covariance = make_linear(sigma, nz=nz, **FIT)
    torch.manual_seed(0)
    z, acceptance, _, passes = model.sample_langevin(model.z, model.images)
    assert passes == 31 * (1 + nz)
    std = covariance.diagonal().sqrt()
    unit = std.outer(std)
    assert ((z.mean(0) - mean) / std).abs().max() < 0.1
    assert torch.allclose(torch.cov(z.T).view(nz, nz) / unit, covariance / unit, atol=0.12)
    assert acceptance.mean() > 0.5


def test_plain_langevin_samples_the_posterior_with_the_bias_of_its_step(make_linear):
    s = 0.1
    model, mean, covariance = make_linear(1.0, langevin_step_size=s, langevin_num_steps=150)
    torch.manual_seed(0)
    z, acceptance, step, passes = model.sample_langevin(model.z, model.images)
    values, vectors = torch.linalg.eigh(torch.linalg.inv(covariance))
    assert torch.allclose(z.mean(0), mean, atol=0.02)
    assert torch.allclose((z @ vectors).var(0), 1 / (values * (1 - s**2 * values / 4)), rtol=0.08)
    assert (step == s).all() and acceptance.mean() > 0.85 and passes == 2 * 151


@pytest.mark.parametrize("sampler, target", [("langevin", 0.95), ("mala", 0.574), ("smmala", 0.69)])
def test_automatic_steps_are_kept_for_each_image_from_epoch_to_epoch(make_linear, sampler, target):
    """With the accept step the posterior is nearly exact; smmala's steps stop at a Newton step."""
    model, mean, covariance = make_linear(1.0, n=2000, sampler=sampler, langevin_num_steps=20, n_epochs=6,
                                          prior_draws=0, learn_num_steps=1, z_noise=0.0, lr=1e-7)
    row = list(model.train())[-1]                # its optimizer holds another generator's weights
    assert len(model.step.unique()) > 1000 and row["step"] == pytest.approx(model.step.mean().item())
    assert row["accept"] == pytest.approx(target, abs=0.05)
    assert torch.allclose(model.z.mean(0), mean, atol=0.02)
    tolerance = 0.3 if sampler == "langevin" else 0.12
    assert torch.allclose(model.z.var(0), covariance.diagonal(), rtol=tolerance)


def test_sigma_falls_along_a_tempered_cold_chain(make_model):
    model = make_model("cold", langevin_num_steps=4, cold_sigma=27.0)
    ladder = model._ladder(1.0)
    assert [n for _, n in ladder] == [1] * 4
    assert [sigma for sigma, _ in ladder] == pytest.approx([27, 9, 3, 1])
    assert model._ladder(30.0) == [(30.0, 4)]
    assert make_model("warm", langevin_num_steps=4, cold_sigma=27.0)._ladder(1.0) == [(1.0, 4)]
    chains = model.sample_langevin(model.z, model.images, 1.0)
    assert chains.passes == 4 * 2 * 3
    with pytest.raises(UserError, match="--langevin_num_steps"):
        Config(cold_sigma=27.0)


@pytest.mark.parametrize("s", [0.0, 0.5])
def test_a_flat_likelihood_leaves_the_prior(make_linear, s):
    model, _, _ = make_linear(1e4, prior_sigma=2.0, langevin_step_size=s, langevin_num_steps=60)
    torch.manual_seed(0)
    z = model.sample_langevin(torch.zeros_like(model.z), model.images).z
    assert torch.allclose(z.std(0), torch.tensor([2.0, 2.0]), rtol=0.05) and z.mean(0).abs().max() < 0.15


def test_the_metric_and_gradient_are_those_of_autograd(make_model):
    model = make_model(nz=3)
    sigma = 0.7
    posterior = model.posterior(model.images, sigma)
    energy, grad, metric = posterior.local(model.z)
    z = model.z.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(posterior.energy(z).sum(), z)
    assert torch.allclose(energy, posterior.energy(z).detach(), rtol=1e-4)
    assert torch.allclose(grad, expected, rtol=1e-3, atol=1e-3)
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda v: model.net(v[None]).flatten(), model.z[i])
        expected = jacobian.T @ jacobian / sigma**2 + torch.eye(3)
        assert torch.allclose(metric[i], expected, rtol=1e-3, atol=1e-3)


# ---- 2: the likelihood is a sum over pixels, and no image knows of the others

def test_energy_is_equation_3(make_model):
    model = make_model(prior_sigma=2.0)
    sigma = 0.7
    expected = [((x - model.net(z[None])[0]) ** 2).sum() / (2 * sigma**2) + (z**2).sum() / (2 * 2.0**2)
                for x, z in zip(model.images, model.z, strict=True)]
    energy = model.posterior(model.images, sigma).energy(model.z)
    assert torch.allclose(energy, torch.stack(expected), rtol=1e-4)


def test_the_gradient_of_an_image_is_the_same_alone_and_in_a_batch(make_model):
    model = make_model()
    _, together, _ = model.posterior(model.images, 0.5).local(model.z)
    for i in range(len(together)):
        _, alone, _ = model.posterior(model.images[i:i + 1], 0.5).local(model.z[i:i + 1])
        assert torch.allclose(together[i], alone[0], rtol=1e-3, atol=1e-2)


# ---- 3: warm and cold

def test_cold_chains_forget_and_warm_chains_remember(make_model):
    def inferred(start, stored):
        model = make_model(start, prior_draws=0)
        model.z = torch.full_like(model.z, stored)
        torch.manual_seed(0)
        model.infer(torch.arange(6))
        return model.z

    assert torch.equal(inferred("cold", -1.0), inferred("cold", 1.5))
    assert not torch.equal(inferred("warm", -1.0), inferred("warm", 1.5))
    assert not torch.equal(inferred("cold", -1.0), inferred("warm", -1.0))


@pytest.mark.parametrize("draws", [0, 16])
def test_cold_starts_are_fresh_draws_of_the_prior(make_model, draws):
    model = make_model("cold", prior_draws=draws, prior_sigma=3.0)
    flat = model.posterior(model.images, 1e4)
    first, second = (model.chain_start(flat, model.z) for _ in range(2))
    assert not (first[:, None] == second[None]).all(-1).any()
    starts = torch.cat([model.chain_start(flat, model.z) for _ in range(300)])
    assert torch.allclose(starts.std(0), torch.tensor([3.0, 3.0]), rtol=0.08)


def test_plain_warm_chains_start_where_they_stood(make_model):
    model = make_model("warm", prior_draws=0)
    assert torch.equal(model.chain_start(model.posterior(model.images), model.z), model.z)


def test_cold_start_resamples_draws_by_likelihood(make_linear):
    """With many draws the chosen ones are posterior samples before any Langevin step."""
    model, mean, covariance = make_linear(8.0, n=2000, prior_draws=20_000)
    model.start = "cold"
    torch.manual_seed(0)
    z = model.chain_start(model.posterior(model.images), torch.zeros(2000, 2))
    assert torch.allclose(z.mean(0), mean, atol=0.08)
    assert torch.allclose(torch.cov(z.T), covariance, atol=0.08)


def test_the_global_move_of_a_warm_chain_leaves_the_posterior_invariant(make_linear):
    """Moves with few draws must not shift the moments of exact samples; chains far out come back."""
    model, mean, covariance = make_linear(2.0, n=200, prior_draws=5)
    torch.manual_seed(0)
    z = mean + torch.randn(200, 2) @ torch.linalg.cholesky(covariance).T
    posterior, kept = model.posterior(model.images), []
    for _ in range(200):
        z = model.chain_start(posterior, z)
        kept.append(z)
    kept = torch.cat(kept)
    assert torch.allclose(kept.mean(0), mean, atol=0.07)
    assert torch.allclose(torch.cov(kept.T), covariance, atol=0.07)
    far = torch.full((200, 2), 9.0)
    for _ in range(20):
        far = model.chain_start(posterior, far)
    assert far.abs().max() < 6


def test_both_starts_begin_with_the_same_generator(make_model):
    warm, cold = make_model("warm"), make_model("cold")
    assert torch.equal(warm.z, cold.z)
    for a, b in zip(warm.net.parameters(), cold.net.parameters(), strict=True):
        assert torch.equal(a, b)


# ---- 4: what the generator learns from

@pytest.mark.parametrize("s", [0.0, 0.05])
def test_learning_uses_the_latents_just_inferred_and_nothing_of_inference(make_model, s):
    model = make_model(z_noise=0.0, langevin_step_size=s, langevin_num_steps=2)
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


def test_the_gradient_norm_is_that_of_equation_7(make_model):
    model = make_model(z_noise=0.0, mse_sigma=0.5)
    loss = (model.images - model.net(model.z)).square().sum((1, 2, 3)).mean() / (2 * 0.5**2)
    expected = torch.stack([g.norm() for g in torch.autograd.grad(loss, list(model.net.parameters()))]).norm()
    norm = model.learn(torch.arange(6), 0.0)
    assert norm.item() == pytest.approx(expected.item(), rel=1e-3)


def test_learning_moves_the_weights_and_lowers_the_loss(make_model):
    model = make_model(n_epochs=80)
    rows = list(model.train())
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"] and rows[-1]["psnr"] > rows[0]["psnr"] + 3
    assert [r["epoch"] for r in rows] == list(range(1, 81))


def test_mini_batches_visit_every_image_once_an_epoch(make_model):
    model, visited = make_model(batch_size=4, n_epochs=3), []
    infer = model.infer
    model.infer = lambda index: visited.append(index) or infer(index)
    list(model.train())
    assert [len(v) for v in visited] == [3, 3] * 3
    for k in range(3):
        assert sorted(torch.cat(visited[2 * k:2 * k + 2]).tolist()) == list(range(6))


def test_the_passes_of_an_epoch_are_counted(make_model):
    """Per image: 16 shared draws and 1 own forward pass, 2 evaluations of 1 + nz, 2 learning steps of 3."""
    warm, cold = (next(iter(make_model(start).train()))["passes"] for start in ("warm", "cold"))
    assert warm == pytest.approx(16 / 6 + 1 + 2 * 3 + 2 * 3) and cold == pytest.approx(warm - 1)


# ---- 5: no dependence between the images of a batch

@pytest.mark.parametrize("nz, img_size", [(1, 16), (2, 32), (2, 64), (5, 128), (100, 32), (2, 256)])
def test_generator_shapes_range_and_independence(nz, img_size):
    torch.manual_seed(0)
    net, z = GenNet(nz, img_size), torch.randn(3, nz)
    with torch.no_grad():
        images = net(z)
        alone = torch.cat([net(z[i:i + 1]) for i in range(3)])
        others = net(torch.cat([z[:1], 5 * torch.randn(4, nz)]))
    assert images.shape == (3, 3, img_size, img_size) and images.abs().max() <= 1
    assert torch.allclose(images, alone, atol=1e-5) and torch.allclose(images[:1], others[:1], atol=1e-5)
    assert not torch.allclose(images[0], images[1], atol=1e-3)


@pytest.mark.parametrize("sizes", [{"nz": 0}, {"img_size": 8}, {"img_size": 96}, {"hidden": 0}])
def test_generator_refuses_sizes_out_of_range(sizes):
    with pytest.raises(ValueError, match="must be"):
        GenNet(**sizes)


# ---- 6: samples are samples

def test_samples_come_from_the_prior_alone(make_model):
    assert list(inspect.signature(utils.sample_images).parameters) == ["net", "config", "n"]
    z = sample_gaussian_prior(50_000, 3, 1.7)
    assert z.shape == (50_000, 3)
    assert torch.allclose(z.std(0), torch.full((3,), 1.7), rtol=0.02) and z.mean(0).abs().max() < 0.05
    model = make_model(prior_sigma=0.5)
    draws = sample_gaussian_prior(8, 2, 0.5, torch.Generator().manual_seed(model.config.seed))
    samples = measures.sample_images(model.net, model.config, 8)
    assert torch.allclose(samples, model.net(draws).detach(), atol=1e-6)


# ---- 8: the panel

def test_the_panel_covers_the_whole_square_from_the_top_left():
    columns, rows = measures.panel_axes(2.0, 12, 2)
    z = measures.panel_latents(columns, rows, 4).view(12, 12, 4)
    assert torch.equal(z[0, 0], torch.tensor([-2.0, 2.0, 0, 0]))
    assert torch.equal(z[0, -1, :2], torch.tensor([2.0, 2.0]))
    assert torch.equal(z[-1, 0, :2], torch.tensor([-2.0, -2.0]))
    assert torch.allclose(z[:, 1:, 0] - z[:, :-1, 0], torch.tensor(4 / 11), atol=1e-5)
    assert measures.panel_latents(*measures.panel_axes(2.0, 5, 1), 1).shape == (5, 1)


@pytest.mark.parametrize("d, ninterp, first, last", [
    (2.1, 12, "-2.10", "2.10"), (0.001, 3, "-0.00100", "0.00100"), (300.0, 40, "-300", "300")])
def test_the_panel_states_its_axes(d, ninterp, first, last):
    columns, rows = measures.panel_axes(d, ninterp, 2)
    fig = utils.plot_interp(torch.zeros(ninterp**2, 3, 4, 4), columns, rows)
    (ax,) = fig.axes
    for axis, ends in ((ax.get_xticklabels(), (first, last)), (ax.get_yticklabels(), None)):
        texts = [label.get_text() for label in axis]
        assert 2 < len(texts) <= 16 and "-0.00" not in texts
        assert ends is None or (texts[0], texts[-1]) == ends
    assert float(ax.get_yticklabels()[0].get_text()) == pytest.approx(d, rel=0.01)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_1$", "$z_2$")


def test_the_range_of_the_panel_follows_the_latents():
    torch.manual_seed(0)
    assert measures.panel_range(torch.randn(5000, 2), 1.0) == pytest.approx(2.0, abs=0.15)
    assert measures.panel_range(torch.zeros(5, 2), 2.0) == 2.0
    assert measures.panel_range(100 * torch.randn(50, 2), 1.0) == 3.0


# ---- 9 and 12: options mean what they say

def test_every_option_has_a_type_a_meaning_and_a_range():
    for f in dataclasses.fields(Config):
        assert f.type in (bool, int, float, str) and len(f.metadata["meaning"]) > 10
        assert type(f.default) is f.type
        assert f.type in (str, bool) or f.metadata["low"] <= f.default <= f.metadata["high"]


@pytest.mark.parametrize("option, value", [
    ("lr", 1e-3), ("langevin_num_steps", 2), ("langevin_step_size", 0.02), ("mse_sigma", 2.0), ("seed", 2),
    ("prior_sigma", 1.5), ("beta1", 0.5), ("beta2", 0.9), ("gamma", 0.5), ("n_epochs", 9), ("z_noise", 0.0),
    ("learn_num_steps", 3), ("prior_draws", 0), ("sigma_start", 5.0), ("hidden", 16), ("batch_size", 4),
    ("nz", 3), ("img_size", 32), ("sampler", "mala")])
def test_no_option_is_ignored(images, option, value):
    def latents(**changed):
        options = SMALL | {"sigma_start": 10.0} | changed
        model = ABP(Config(**options), torch.nn.functional.interpolate(images, size=options["img_size"]))
        for _, row in zip(range(6), model.train(), strict=False):
            assert math.isfinite(row["loss"])
        return model.z

    a, b = latents(), latents(**{option: value})
    assert a.shape != b.shape or not torch.equal(a, b)


def test_the_learning_rate_warms_up_and_falls_to_gamma_times_lr():
    config = Config(lr=1e-3, gamma=0.1)
    rates = [config.learning_rate(k / 1000) for k in range(1000)]
    assert rates[0] < 0.05e-3 and max(rates) == pytest.approx(1e-3, rel=0.02)
    assert rates[-1] == pytest.approx(1e-4, rel=0.01) and min(rates[100:]) > 0.99e-4
    assert Config(lr=1e-3, gamma=1.0).learning_rate(0.9) == pytest.approx(1e-3)


def test_sigma_is_annealed_to_mse_sigma_and_is_not_the_step_size():
    config = Config(mse_sigma=2.0, sigma_start=8.0, n_epochs=100)
    assert config.sigma(0) == 8.0 and config.sigma(30) == pytest.approx(4.0)
    assert config.sigma(60) == 2.0 == config.sigma(99)
    assert Config(mse_sigma=20.0, sigma_start=8.0).sigma(0) == 20.0
    assert Config(langevin_step_size=0.5).sigma(0) == Config().sigma(0)


# ---- numbers, divergence, import

def test_the_log_tells_the_float32_psnr_at_the_latents_of_the_epoch(make_model):
    model = make_model(n_epochs=3, mse_sigma=2.0)
    for row in model.train():
        error = (model.net(model.z) - model.images).detach().square().mean((1, 2, 3))
        assert row["psnr"] == pytest.approx((10 * torch.log10(4 / error)).mean().item(), abs=1e-3)
        assert row["loss"] == pytest.approx(error.mean().item() * 3 * 16 * 16 / (2 * 2.0**2), rel=1e-4)
        assert row["z_std_1"] == pytest.approx(model.z[:, 0].std(correction=0).item(), rel=1e-4)


def test_metrics_are_what_they_are_called(make_model):
    model = make_model(n_epochs=2)
    list(model.train())
    samples = measures.sample_images(model.net, model.config)
    m = measures.measure(model.net, model.z, model.images, samples, model.config)
    error = (model.net(model.z) - model.images).detach().square().mean((1, 2, 3))
    assert m["psnr"] == pytest.approx((10 * torch.log10(4 / error)).mean().item(), abs=1e-3)
    assert m["z_mean_square"] == pytest.approx(model.z.square().mean().item(), rel=1e-5)
    nearest = [max(10 * math.log10(4 / (s - x).square().mean()) for x in model.images) for s in samples]
    assert m["sample_nearest_psnr"] == pytest.approx(sum(nearest) / len(nearest), abs=1e-3)
    assert m["sample_nearest_psnr_p10"] == pytest.approx(torch.tensor(nearest).quantile(0.1).item(), abs=1e-2)
    assert m["sample_saturation"] == pytest.approx(
        ((samples.abs() > 0.98).float().mean() - (model.images.abs() > 0.98).float().mean()).item(), abs=1e-6)


def test_a_chain_that_diverges_is_named_with_the_epoch_and_the_option(make_model):
    model = make_model(langevin_step_size=10.0, langevin_num_steps=200)
    with pytest.raises(UserError, match=r"image \d.* epoch 1 of the warm start.*--langevin_step_size"):
        list(model.train())


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("s, share", [(1.0, 1.0), (0.02, 0.0)])
def test_unstable_chains_are_counted(make_linear, s, share, n_steps):
    model, mean, _ = make_linear(1.0, n=50, langevin_step_size=s, langevin_num_steps=n_steps, n_epochs=1,
                                 prior_draws=0)
    model.z = mean.expand(50, 2).clone()
    row = next(iter(model.train()))
    assert abs(row["unstable"] - share) < 0.2 and row["step"] == pytest.approx(s)


def test_weights_that_are_not_finite_stop_the_run(make_model):
    model = make_model()
    next(iter(model.train()))
    with torch.no_grad():
        model.net.deconv[0].weight.fill_(math.nan)
    with pytest.raises(UserError, match=r"image \d.*epoch 2.*--lr"):
        list(model.train())


def test_importing_runs_nothing_and_needs_no_screen():
    code = ("import sys, abp; assert 'matplotlib.pyplot' not in sys.modules; "
            "assert not {'evaluate', 'zoo'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code],
                          cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
