"""Random samples, the panel and the measures of a run."""
import pytest
import torch

import utils
from inference import measures
from inference.posterior import sample_gaussian_prior


def test_samples_come_from_the_prior_alone(make_model):
    z = sample_gaussian_prior(50_000, 3, 1.7)
    assert z.shape == (50_000, 3)
    assert torch.allclose(z.std(0), torch.full((3,), 1.7), rtol=0.02)
    assert z.mean(0).abs().max() < 0.05
    model = make_model(prior_sigma=0.5)
    draws = sample_gaussian_prior(96, 2, 0.5, torch.Generator().manual_seed(model.config.seed))
    samples = measures.sample_images(model.net, model.config)
    assert torch.allclose(samples, model.net(draws).detach(), atol=1e-6)


def test_latents_of_the_panel():
    columns, rows = measures.panel_axes(2.0, 12, 2)
    z = measures.panel_latents(columns, rows, 4).view(12, 12, 4)
    assert torch.equal(z[0, 0], torch.tensor([-2.0, 2.0, 0, 0]))
    assert torch.equal(z[0, -1, :2], torch.tensor([2.0, 2.0]))
    assert torch.equal(z[-1, 0, :2], torch.tensor([-2.0, -2.0]))
    assert torch.allclose(z[:, 1:, 0] - z[:, :-1, 0], torch.tensor(4 / 11), atol=1e-5)
    assert measures.panel_latents(*measures.panel_axes(2.0, 5, 1), 1).shape == (5, 1)


@pytest.mark.parametrize("d, ninterp, first, last", [
    (2.1, 12, "-2.10", "2.10"), (0.001, 3, "-0.00100", "0.00100"), (300.0, 40, "-300", "300")])
def test_labels_of_the_panel(monkeypatch, d, ninterp, first, last):
    drawn = []
    monkeypatch.setattr(utils, "save_figure", lambda fig, paths, dpi: drawn.extend(fig.axes))
    columns, rows = measures.panel_axes(d, ninterp, 2)
    utils.save_interp(torch.zeros(ninterp**2, 3, 4, 4), columns, rows, [])
    (ax,) = drawn
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


def test_metrics(make_model):
    model = make_model()
    samples = measures.sample_images(model.net, model.config)
    m = measures.measure(model.net, model.z, model.images, samples, model.config)
    assert m["z_mean_square"] == pytest.approx(model.z.square().mean().item(), rel=1e-5)
    mse = (samples[:, None] - model.images[None]).square().mean((2, 3, 4)).amin(1)
    nearest = 10 * torch.log10(4 / mse)
    assert m["sample_nearest_psnr"] == pytest.approx(nearest.mean().item(), abs=1e-3)
    assert m["sample_nearest_psnr_p10"] == pytest.approx(nearest.quantile(0.1).item(), abs=1e-2)
    for name, x in (("sample", samples), ("data", model.images)):
        fraction = (x.abs() > 0.98).float().mean().item()
        assert m[f"{name}_saturated"] == pytest.approx(fraction, abs=1e-6)


def test_psnr_of_equal_images_is_finite(make_model):
    model = make_model()
    m = measures.measure(model.net, model.z, model.images, model.images, model.config)
    assert m["sample_nearest_psnr"] == 100 == m["sample_nearest_psnr_p10"]
