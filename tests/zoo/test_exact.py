"""The zoo's closed forms hold, for every model; and its frame: checks, the adversarial loop, the command."""
import math

import pytest
import torch

from abp import Config
from zoo import abp, core, datasets, fa, metrics, records, vae
from zoo.__main__ import main
from zoo.train import alternate

EXACT = [name for name in core.MODELS if core.home(name, "exact")]


@pytest.mark.parametrize("name", EXACT)
def test_exact(name):
    torch.manual_seed(0)
    checks = core.home(name, "exact").exact()
    assert checks
    for check in checks:
        assert check.ok, check


def test_a_check_fails_outside_its_bounds_and_when_its_control_is_inside():
    def check(value, **controls):
        return core.Check("value", value, 1.0, 2.0, controls=controls)

    assert check(1.5).ok and check(1.0).ok and check(1.5, broken=2.5).ok and check(1.5, broken=math.nan).ok
    assert not check(2.5).ok and not check(math.nan).ok and not check(1.5, broken=1.2).ok
    with pytest.raises(ValueError, match="cannot fail"):
        core.Check("anything", 1.0)


def test_players_take_their_steps_and_leave_each_others_gradients_alone():
    a, b = (torch.nn.Parameter(torch.tensor(value)) for value in (1.0, 2.0))
    first, second = (torch.optim.SGD([p], 0.1) for p in (a, b))
    losses = alternate((first, lambda: a * b, 2), (second, lambda: -a * b, 1))
    # a: 1 - 2 * .1 * 2 = .6, then b: 2 + .1 * .6 = 2.06; losses before the last step of each
    assert torch.allclose(torch.stack([a, b]), torch.tensor([0.6, 2.06]))
    assert losses == pytest.approx([0.8 * 2.0, -0.6 * 2.0])
    assert a.grad == 2.0 and b.grad == pytest.approx(-0.6)


def test_a_mixtures_density_integrates_to_one_and_fits_its_samples():
    world, grid = datasets.ring(5, 1.0, 0.3), metrics.square(3.0, 120)
    log_p = world.log_prob(grid.z)
    assert grid.log_integral(log_p) == pytest.approx(0, abs=1e-4)
    share = grid.histogram(world.sample(200_000, torch.Generator().manual_seed(0)))
    coarse = (share.view(40, 3, 40, 3).sum((1, 3)), (log_p.exp() * grid.area).view(40, 3, 40, 3).sum((1, 3)))
    assert metrics.total_variation(*coarse) < 0.03


def test_coverage_counts_modes_and_finds_a_collapse():
    world = datasets.grid(5, 1.5, 0.1)
    full = metrics.coverage(world.sample(5000, torch.Generator().manual_seed(0)), world)
    assert full.modes == 25 and full.kl < 0.01
    assert full.quality == pytest.approx(1 - math.exp(-4.5), abs=0.01)     # of a Gaussian within 3 stds
    collapsed = metrics.coverage(world.centres[:1] + 0.1 * torch.randn(500, 2), world)
    assert collapsed.modes == 1 and collapsed.kl == pytest.approx(math.log(25))
    assert metrics.coverage(torch.full((500, 2), 9.0), world) == (0, 0.0, math.inf)


def test_distances_between_images():
    x = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1)
    assert metrics.pair_distance(x) == 2.0
    assert metrics.nearest(x, x) == 0.0
    assert metrics.nearest(x, x, itself=True) == pytest.approx(4 / 3)
    assert metrics.nearest(x, x[2:]) == pytest.approx(5 / 3)


def test_digits_are_split_once_and_for_all():
    (train, labels), (test, classes) = datasets.digits()
    assert train.shape == (1400, 1, 8, 8) and test.shape == (397, 1, 8, 8)
    assert train.min() == 0 and train.max() == 1 and (train * 16 == (train * 16).round()).all()
    assert labels.bincount().min() > 120 and classes.bincount().min() >= 30


@pytest.mark.parametrize("argv, message", [
    ([], "no model was named"), (["nothing", "exact"], "--name must be one of"),
    (["fa", "fly"], "--action must be one of"),
    (["fa", "bench", "--seeds", "0"], "--seeds must be an integer from 1"),
    (["abp", "exact"], "abp has no exact"), (["readme", "--out", "nowhere"], "holds no record"),
    (["fa", "animals", "--data", "nowhere"], "no such folder"),
    (["fa", "exact", "--sees", "1"], "did you mean --seeds")])
def test_bad_input_ends_in_one_line(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.fixture(params=["abp", "vae", "fa"])
def trained(request, images):
    """A model of the zoo, fitted for a moment to six faces of 16 x 16, and those faces."""
    config = abp.settings(16, n_epochs=3, learn_num_steps=2, hidden=32, width=2, prior_draws=16)
    return {"abp": lambda: abp.Alternating(config, images), "fa": lambda: fa.animals(images),
            "vae": lambda: vae.fit_images(vae.image_vae(config), images, config)}[request.param](), images


def test_a_model_draws_explains_and_weighs_images(trained):
    model, images = trained
    assert isinstance(model, core.Sampler) and isinstance(model, core.Coder)
    assert isinstance(model, core.Density) and model.exact
    samples, again = model.sample(5), model.reconstruct(images)
    assert samples.shape == (5, 3, 16, 16) and again.shape == images.shape
    assert not torch.equal(samples[0], samples[1])
    error = (again - images).square().mean()
    assert error < (images - 0.5).square().mean()         # a flat picture explains less
    log_p = model.log_prob(images)
    assert log_p.shape == (6,) and log_p.isfinite().all()
    assert (log_p > model.log_prob(torch.randn(6, 3, 16, 16).clamp(-1, 1))).all()
    assert model.n_parameters > 768


def test_settings_keep_the_energy_of_a_picture_of_another_side():
    assert abp.settings(128).mse_sigma == Config().mse_sigma
    assert abp.settings(64, seed=3).mse_sigma == Config().mse_sigma / 2 and abp.settings(64, seed=3).seed == 3


def test_a_failed_check_is_shown_and_is_the_exit_status(capsys, tmp_path, monkeypatch):
    checks = [core.Check("good", 1.0, hi=2.0, source="by hand"),
              core.Check("bad", math.inf, hi=2.0, source="by hand", controls={"broken": 3.0})]
    monkeypatch.setattr(core.home("fa", "exact"), "exact", lambda: checks)
    assert main(["fa", "exact", f"--out={tmp_path}"]) == 1
    assert "| bad | inf | ≤ 2 | broken: 3 | **FAILED** | by hand |" in capsys.readouterr().out
    monkeypatch.setattr(core.home("fa", "exact"), "exact", lambda: checks[:1])
    page = tmp_path / "README.md"
    monkeypatch.setattr(records, "README", page)
    page.write_text("by hand\n<!-- failures -->\n<!-- end failures -->\n"
                    "<!-- measured -->\nold\n<!-- end measured -->")
    assert main(["readme", f"--out={tmp_path}"]) == 0
    assert "- fa exact, seed 0: bad: inf, bound ≤ 2\n" in page.read_text()
    assert main(["fa", "exact", f"--out={tmp_path}"]) == 0
    assert main(["readme", f"--out={tmp_path}"]) == 0
    text = page.read_text()
    assert "| good | 1 | ≤ 2 |  | yes | by hand |" in text and "Nothing.\n" in text
    assert text.startswith("by hand\n") and "\nold\n" not in text and "bad" not in text
    page.write_text("by hand")
    assert main(["readme", f"--out={tmp_path}"]) == 2
    assert "must hold <!-- failures --> and <!-- end failures --> once each" in capsys.readouterr().err


def test_sources_of_several_seeds_become_one():
    merged = records._merged
    assert merged(["Eq. 4", "Eq. 4"]) == "Eq. 4"
    assert merged(["it has .61", "it has .7", "it has .61"]) == "it has .61, .7"
    assert merged(["by hand", "chosen"]) == "by hand / chosen"
