"""How near reconstructions come to their images: squared error, PSNR and SSIM, image by image."""
import torch
from skimage.metrics import structural_similarity

HEADS = {"image": "image", "mse": "MSE", "psnr": "PSNR [dB]", "ssim": "SSIM"}
FORMS = {"mse": ".5f", "psnr": ".2f", "ssim": ".3f"}
# Wang, Bovik, Sheikh, Simoncelli: Image quality assessment: from error visibility to structural similarity,
# 2004: Gaussian window of std 1.5 pixels, 11 a side, moments with its weights, without Bessel's correction
WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def errors(recon, images):
    """Mean squared error and PSNR = 10 log10(4 / mse) in dB of each image: (n, 3, S, S) twice -> (n,), (n,).

    Pixels are in [-1, 1], so the largest error is 2. An exact reconstruction has an infinite PSNR. float64.
    """
    mse = (recon.double() - images.double()).square().mean((1, 2, 3))
    return mse, 10 * torch.log10(4 / mse)


def similarity(recon, images):
    """Structural similarity of each image, at most 1, the mean of its colours: (n, 3, S, S) twice -> (n,)."""
    pairs = zip(recon.double().numpy(), images.double().numpy(), strict=True)
    values = [structural_similarity(a, b, channel_axis=0, data_range=2, **WINDOW) for a, b in pairs]
    return torch.tensor(values, dtype=torch.float64)


def rows(recon, images, names):
    """Rows of a table: name, mse, psnr [dB] and ssim of each image, and their means in a last row, "mean".

    recon, images  (n, 3, S, S) in [-1, 1] on the CPU, S at least 11, the side of the window of SSIM
    names          of the images
    """
    columns = torch.stack([*errors(recon, images), similarity(recon, images)], 1)
    values = torch.cat([columns, columns.mean(0, keepdim=True)]).tolist()
    return [{"image": name, "mse": mse, "psnr": psnr, "ssim": ssim}
            for name, (mse, psnr, ssim) in zip([*names, "mean"], values, strict=True)]
