"""The moments of chains at a trained generator against quadrature over the latent plane."""
import torch

from evaluation import chains
from evaluation.likelihood import Joint
from evaluation.modes import find_modes, survey
from evaluation.quadrature import log_evidence

N_CHAINS, N_ADAPT, N_STEPS = 8, 40, 100      # chains per image; adaptation steps; counted steps


def compare(model):
    """Rows of a table, one for each image of an ABP model: chains of smmala from its z (n, 2).

    Gaps of means are in posterior stds, of the coordinate with the larger gap.
    """
    sigma, z = model.config.mse_sigma, model.z.cpu()
    joint = Joint(model.net, model.images, model.config.prior_sigma, model.dtype)
    plane, index = survey(joint), torch.arange(len(z))
    exact = log_evidence(joint, plane, find_modes(joint, plane, sigma, z), sigma)
    starts = z.repeat(N_CHAINS, 1, 1)
    draws = chains.sample(joint, index, sigma, "smmala", starts, N_ADAPT, N_STEPS).draws.double()
    std = exact.covariance.diagonal(dim1=1, dim2=2).sqrt()                          # (n, 2)
    gaps = (draws.mean(0) - exact.mean) / std                                       # (chains, n, 2)
    ratio = draws.flatten(0, 1).std(0) / std
    return [{"image": i, "std of z_1": std[i, 0].item(), "std of z_2": std[i, 1].item(),
             "mean: chains - quadrature": gaps[:, i, k].mean().item(),
             "standard error": gaps[:, i, k].std().item() / len(gaps)**0.5,
             "std: chains / quadrature": ratio[i, k].item()}
            for i, k in enumerate(gaps.mean(0).abs().argmax(1).tolist())]
