"""The posterior of a latent and its samplers, against closed forms of a linear generator."""

import pytest
import torch

from inference.posterior import Posterior, squared_distances

FIT = {"langevin_step_size": 0.0, "langevin_num_steps": 30}


@pytest.mark.parametrize("sigma, nz", [(0.3, 1), (5.0, 1), (0.3, 2), (5.0, 2), (1.0, 5)])
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
    model, mean, covariance = make_linear(1.0, n=2000, sampler=sampler, langevin_num_steps=20,
                                          n_epochs=6, prior_draws=0, learn_num_steps=1, z_noise=0.0,
                                          lr=1e-7)
    row = list(model)[-1]                # its optimizer holds another generator's weights
    assert len(model.step.unique()) > 1000
    assert row["step"] == pytest.approx(model.step.mean().item())
    assert row["accept"] == pytest.approx(target, abs=0.05)
    assert torch.allclose(model.z.mean(0), mean, atol=0.02)
    tolerance = 0.3 if sampler == "langevin" else 0.12
    assert torch.allclose(model.z.var(0), covariance.diagonal(), rtol=tolerance)


@pytest.mark.parametrize("s", [0.0, 0.5])
def test_a_flat_likelihood_leaves_the_prior(make_linear, s):
    model, _, _ = make_linear(1e4, prior_sigma=2.0, langevin_step_size=s, langevin_num_steps=60)
    torch.manual_seed(0)
    z = model.sample_langevin(torch.zeros_like(model.z), model.images).z
    assert torch.allclose(z.std(0), torch.tensor([2.0, 2.0]),
                          rtol=0.05) and z.mean(0).abs().max() < 0.15


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
        jacobian = torch.autograd.functional.jacobian(lambda v: model.net(v[None]).flatten(),
                                                      model.z[i])
        expected = jacobian.T @ jacobian / sigma**2 + torch.eye(3)
        assert torch.allclose(metric[i], expected, rtol=1e-3, atol=1e-3)


# ---- 2: the likelihood is a sum over pixels, and no image knows of the others

def test_energy_is_equation_3(make_model):
    model = make_model(prior_sigma=2.0)
    sigma = 0.7
    expected = [((x - model.net(z[None])[0]) ** 2).sum() / (2 * sigma**2)
                + (z**2).sum() / (2 * 2.0**2)
                for x, z in zip(model.images, model.z, strict=True)]
    energy = model.posterior(model.images, sigma).energy(model.z)
    assert torch.allclose(energy, torch.stack(expected), rtol=1e-4)


def test_the_gradient_of_an_image_is_the_same_alone_and_in_a_batch(make_model):
    model = make_model()
    _, together, _ = model.posterior(model.images, 0.5).local(model.z)
    for i in range(len(together)):
        _, alone, _ = model.posterior(model.images[i:i + 1], 0.5).local(model.z[i:i + 1])
        assert torch.allclose(together[i], alone[0], rtol=1e-3, atol=1e-2)


# ---- the global move

def test_cold_start_resamples_draws_by_likelihood(make_linear):
    """With many draws the chosen ones are posterior samples before any Langevin step."""
    model, mean, covariance = make_linear(8.0, n=2000, prior_draws=20_000)
    model.start = "cold"
    torch.manual_seed(0)
    z = model.chain_start(model.posterior(model.images), torch.zeros(2000, 2))
    assert torch.allclose(z.mean(0), mean, atol=0.08)
    assert torch.allclose(torch.cov(z.T), covariance, atol=0.08)


def test_the_global_move_of_a_warm_chain_leaves_the_posterior_invariant(make_linear):
    """Moves with few draws must not shift the moments of exact samples; chains far out come
    back."""
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


# ---- small sigma

@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_squared_distances_keep_their_small_differences(sigma):
    """At D = 12,288 float32 products would be off by up to .5 nats."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    draws = (image + 0.1 * torch.randn(40, 3, 64, 64)).clamp(-1, 1)
    exact = (image.double() - draws.double()).square().sum((1, 2, 3))
    mask = torch.ones(1, 1, 64, 64)
    for found in (squared_distances(image, draws), squared_distances(image, draws, mask)):
        assert ((found[0] - exact).abs() / (2 * sigma**2)).max() < 1e-6


def test_the_global_move_is_invariant_at_a_small_sigma():
    """Of two candidates with equal images the chain's own state and the draws are taken alike."""
    torch.manual_seed(0)
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    images = (picture + 0.3 * torch.randn(2000, 3, 64, 64)).clamp(-1, 1)

    class Flat(torch.nn.Module):
        def forward(self, z):
            return picture.expand(len(z), -1, -1, -1)

    posterior = Posterior(Flat(), images, 0.3)
    moved = (posterior.resample(torch.randn(1, 2), torch.zeros(2000, 2)) != 0).any(1)
    assert moved.float().mean() == pytest.approx(0.5, abs=0.04)


def test_bf16_gives_way_to_float32_below_sigma_1(make_model):
    model = make_model()
    assert Posterior(model.net, model.images, 0.9, dtype=torch.bfloat16).dtype == torch.float32
    assert Posterior(model.net, model.images, 1.0, dtype=torch.bfloat16).dtype == torch.bfloat16
