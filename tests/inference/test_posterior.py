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
def test_adapted_step_sizes_persist_per_image(make_linear, sampler, target):
    """smmala accepts more than its target: its step size is at most a Newton step."""
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
    assert torch.allclose(z.std(0), torch.tensor([2.0, 2.0]), rtol=0.05)
    assert z.mean(0).abs().max() < 0.15


def test_energy_gradient_and_metric(make_model):
    """Eq. 3, its gradient and J^T J / sigma^2 + I / prior_sigma^2 by autograd, image by image."""
    model, sigma, prior_sigma = make_model(nz=3, prior_sigma=2.0), 0.7, 2.0
    posterior = model.posterior(model.images, sigma)
    energy, grad, metric = posterior.local(model.z)
    assert torch.allclose(energy, posterior.energy(model.z), rtol=1e-4)

    for i, (z, x) in enumerate(zip(model.z, model.images, strict=True)):
        z = z.clone().requires_grad_(True)
        error = x - model.net(z[None])[0]
        expected = error.square().sum() / (2 * sigma**2) + z.square().sum() / (2 * prior_sigma**2)
        assert torch.allclose(energy[i], expected, rtol=1e-4)
        (expected,) = torch.autograd.grad(expected, z)
        assert torch.allclose(grad[i], expected, rtol=1e-3, atol=1e-3)
        J = torch.autograd.functional.jacobian(lambda v: model.net(v[None]).flatten(), z)
        expected = J.T @ J / sigma**2 + torch.eye(3) / prior_sigma**2
        assert torch.allclose(metric[i], expected, rtol=1e-3, atol=1e-3)


def test_cold_start_resamples_draws_by_likelihood(make_linear):
    """With many draws the chosen ones are posterior samples before any Langevin step."""
    model, mean, covariance = make_linear(8.0, n=2000, prior_draws=20_000)
    model.start = "cold"
    torch.manual_seed(0)
    z = model.chain_start(model.posterior(model.images), torch.zeros(2000, 2))
    assert torch.allclose(z.mean(0), mean, atol=0.08)
    assert torch.allclose(torch.cov(z.T), covariance, atol=0.08)


def test_the_global_move_of_a_warm_chain_leaves_the_posterior_invariant(make_linear):
    """Moves with few draws keep the moments of exact samples; distant chains return."""
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


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_squared_distances_keep_their_small_differences(sigma):
    """Float32 products have errors of up to 0.5 nats at D = 12,288."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    draws = (image + 0.1 * torch.randn(40, 3, 64, 64)).clamp(-1, 1)
    exact = (image.double() - draws.double()).square().sum((1, 2, 3))
    mask = torch.ones(1, 1, 64, 64)
    for found in (squared_distances(image, draws), squared_distances(image, draws, mask)):
        assert ((found[0] - exact).abs() / (2 * sigma**2)).max() < 1e-6


def test_the_global_move_is_invariant_at_a_small_sigma():
    """A draw with the same image as the current state is chosen half of the time."""
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
