"""Boundary-seeking GAN (BGAN): a generator of bits, which learns from weighted samples of its own.

    z ~ N(0, I),   g(x | z) = prod_i sigmoid(x_i a_i(z)),   x in {-1, 1}^d,   a(z) the generator's logits

    (1) discriminate:  ascend V(F) = E log D(x) + E log(1 - D(x')),  D = sigmoid(F),  in the weights of D
    (2) generate:      z_n ~ N(0, I), x_nm ~ g(x | z_n); descend -sum_nm w~_nm log g(x_nm | z_n), w~ held
                       fixed, in those of G, where w~ = e^F / sum of e^F over all n and m

Hjelm, Jacob, Che, Trischler, Cho and Bengio, Boundary-Seeking Generative Adversarial Networks, ICLR 2018,
Algorithm 1, whose w~ add up to 1 for each z. The losses, one function each, are in boundary.py.

Not the paper's: a channel turns over bits of real and of generated items, fewer and fewer, before D reads
them. What D judges is then g after the channel, and so log g is that of the bits after it, too:
sigmoid(a_i) becomes r + (1 - 2r) sigmoid(a_i). Unlike a(z) it never says that a bit is certain, so that every
z goes on to draw, and to learn from, what it has not drawn before. And D has the gradient penalty of gan.py.
"""

import torch
from torch import nn
from torch.nn import functional as F

from inference.measures import to_side
from runs.files import set_seed
from zoo import boundary, core, gan

SIDE = 16                        # of the pictures in black and white
LOG_Z_DECAY = 0.995              # of the running mean of log Z, in a step of G
LEAST = 1e-6                     # a bit's probability is as far from 0 and 1, so that its logarithm is finite
FORMS = {                        # losses of logits F (n, m), log g (n, m) and the running log Z
    "batch": lambda logit, log_g, log_z: boundary.importance_loss(boundary.normalised(logit), log_g),
    "per z": lambda logit, log_g, log_z: boundary.importance_loss(boundary.normalised(logit, True), log_g),
    "uniform": lambda logit, log_g, log_z: -log_g.mean(),
    "reinforce": boundary.reinforce_loss,
}


def channel(logits, rate):
    """Logits of bits after each was turned over with probability `rate`; the shape of logits."""
    return torch.logit(rate + (1 - 2 * rate) * logits.sigmoid(), eps=LEAST)


def draw(logits):
    """Bits in {-1, 1} of the shape of their logits, each 1 with probability sigmoid(logit); no gradient."""
    return 2 * torch.bernoulli(logits.detach().sigmoid()) - 1


def log_bits(x, logits):
    """log g(x | z) = sum_i log sigmoid(x_i a_i), nats: x (n, m, ...), logits a (n, 1, ...) -> (n, m)."""
    return F.logsigmoid(x * logits).flatten(2).sum(2)


class BGAN(gan.GAN):
    """A generator of bits and the discriminator that teaches it.

    generator  z (n, nz) -> logits (n, ...) of bits that are 1 and not -1; may have batch normalisation:
               by the batch in fit, by running means afterwards
    form       of the generator's loss: "batch", weights that add up to 1 over z and m; "per z", over m alone,
               as in the paper; "reinforce"; "uniform", all weights the same, which teaches nothing
    m          samples x of each z in a step of G
    flips      share of bits that the channel turns over at first, below 1/2; along a line to 0
    nz, k, r1, lr, batch as of gan.GAN
    """

    def __init__(self, generator, discriminator, nz, *, form="batch", m=16, flips=0.07, k=1, r1=0.05, lr=3e-3,
                 batch=64):
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}; it is {form}")
        if m < 1 or not 0 <= flips < 0.5:
            raise ValueError(f"m must be at least 1, and flips from 0 to below 1/2; they are {m}, {flips}")
        super().__init__(generator, discriminator, nz, k=k, augment=self._flip, r1=r1, lr=lr, batch=batch)
        self.form, self.m, self.flips = form, m, flips
        self.begun, self.steps = 0, 1                # rounds before this fit, and of it
        self.log_z = None                            # running mean of log of the mean of e^F
        self.sizes = []                              # effective samples of the m of a z, mean, of each step

    @property
    def rate(self):
        """Share of bits that the channel turns over now."""
        return self.flips * (1 - (len(self.history) - self.begun) / self.steps)

    def _flip(self, x):
        return torch.where(torch.rand_like(x) < self.rate, -x, x)

    def made(self, z, generator=None):
        """Bits (n, ...) in {-1, 1} at z (n, nz), before the channel; no gradient."""
        return draw(super().made(z, generator))

    def seen(self, logits):
        """Logits of the bits as they leave the channel, from those of the generator's bits (n, ...)."""
        return channel(logits, self.rate)

    def generator_loss(self):
        """The loss of this form on m fresh samples, after the channel, of each of a batch of z -> ()."""
        logits = self.seen(self.generator(torch.randn(self.batch, self.nz))).unsqueeze(1)
        x = draw(logits.expand(-1, self.m, *logits.shape[2:]))
        with torch.no_grad():
            logit = self.discriminator(x.flatten(0, 1)).view(self.batch, self.m)
        log_z = boundary.log_mean_weight(logit)
        self.log_z = log_z if self.log_z is None else self.log_z.lerp(log_z, 1 - LOG_Z_DECAY)
        self.sizes.append(boundary.effective_size(logit).mean().item())
        return FORMS[self.form](logit, log_bits(x, logits), self.log_z)

    def fit(self, data, *, steps, seed=0):
        """Algorithm 1 on data (n, ...) in {-1, 1} for `steps` steps of G -> self; ValueError if no bits."""
        if not (data.abs() == 1).all():
            raise ValueError("bits must be -1 or 1; D would tell anything else from the generator's at once")
        self.begun, self.steps = len(self.history), steps
        self.generator.train()
        super().fit(data, steps=steps, seed=seed)
        self.generator.eval()
        return self


class ContinuousBGAN(gan.GAN):
    """A generator of continuous items that seeks the boundary D = 1/2 from both sides, by E F^2: down F even
    where there are too few fakes, F > 0.
    """

    def generator_loss(self):
        """E F^2 on fresh fakes -> ()."""
        return boundary.squared_loss(self.logits(self.made(torch.randn(self.batch, self.nz))))


def bits_gan(d=16, nz=6, width=128, make=BGAN, **options):
    """A BGAN of items (n, d), 128 units a layer; options as of BGAN, or of a class that is made as it is."""
    generator = core.mlp(nz, width, width, d,
                         activation=lambda: nn.Sequential(nn.BatchNorm1d(width), nn.ReLU()))
    return make(generator, core.mlp(d, width, width, 1), nz, **options)


# ---------------------------------------------------------------------------------------------------- animals

class Silhouettes:
    """A BGAN of pictures in black and white, SIDE x SIDE, as a sampler of images in [-1, 1]."""
    view = f"{SIDE} x {SIDE}, 2 greys"

    def __init__(self, model):
        self.model, self.n_parameters, self.history = model, model.n_parameters, model.history

    def sample(self, n):
        """n images (n, 3, SIDE, SIDE), each value -1 or 1, the same in all colours."""
        return shown(self.model.sample(n))


def silhouettes(images):
    """Images (n, 3, S, S) -> bits (n, SIDE^2): grey, pixels averaged, 1 above the median of the same image.

    So half of the bits are 1, however dark the image is.
    """
    grey = to_side(images, SIDE).mean(1).flatten(1)
    return torch.where(grey > grey.median(1, keepdim=True).values, 1.0, -1.0)


def shown(bits):
    """Bits (n, SIDE^2) -> images (n, 3, SIDE, SIDE), each value -1 or 1, the same in all colours."""
    return bits.view(-1, 1, SIDE, SIDE).expand(-1, 3, -1, -1)


def seen(images):
    """Images (n, 3, S, S) in [-1, 1] -> (n, 3, SIDE, SIDE), in black and white."""
    return shown(silhouettes(images))


def animals(data, seed=0, steps=3000):
    """The BGAN of images (n, 3, S, S) in [-1, 1] and of their mirror images, in black and white.

    D has few images, and 256 bits to tell each by: more bits are turned over, and the penalty is larger.
    """
    set_seed(seed)
    model = bits_gan(SIDE**2, nz=8, flips=0.2, r1=0.5)
    return Silhouettes(model.fit(silhouettes(torch.cat([data, data.flip(3)])), steps=steps, seed=seed))
