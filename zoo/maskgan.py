"""MaskGAN: a filler of missing tokens, trained by a discriminator of every filled token.

    m(x)                                          x with a mask token for every missing token
    G(x_t | x_<t, m(x))                           the generator draws missing tokens left to right
    D(x_t | x_<=t, m(x)) = sigmoid(a_t)           probability that token t is real, not drawn
    r_t = log D(x_t | x_<=t, m(x))                reward of a drawn token
    R_t = sum_{s >= t, s missing} c^(s - t) r_s   discounted return over missing positions

    (1) discriminate:  ascend E log D of real tokens + E log(1 - D) of drawn ones, where missing
    (2) generate:      ascend E sum_t (R_t - b_t) log G(x_t | x_<t, m(x)), R - b fixed (REINFORCE)
    (3) criticise:     descend E (R_t - b_t)^2 in the weights of the critic b_t = b(x_<t, m(x))

Fedus, Goodfellow and Dai, MaskGAN: Better Text Generation via Filling in the ______, ICLR 2018.
Before the game the generator is fitted by maximum likelihood: first with all tokens missing, as a
language model, then as a filler. That alone is their baseline MaskMLE. The networks are in
infilling.py. Not in the paper: the embedding of the position, and separate weights of the critic.

Strings are int64 (n, T) in 0 .. v - 1; missing (n, T) is bool, True where a token must be drawn.
"""
import itertools
import math

import torch
from torch.nn import functional as F

from zoo import gan, networks, views
from zoo.infilling import Filler, Reader
from zoo.train import alternate, descend

FIT_LR = 8e-3                    # learning rate of G by maximum likelihood, falling
PREPARE_LR = 4e-3                # of D and critic before the game, falling
GAME_LR = 1e-3, 1e-4, 1e-3       # of D, G and critic in the game
ALL_MISSING = 0.2                # fraction of G's steps by likelihood with all tokens missing


def returns(rewards, missing, discount):
    """R_t = sum_{s >= t, s missing} discount^(s - t) r_s: (n, T) -> (n, T)."""
    total, sums = torch.zeros_like(rewards[:, 0]), []
    for t in reversed(range(rewards.shape[1])):
        total = rewards[:, t] * missing[:, t] + discount * total
        sums.append(total)
    return torch.stack(sums[::-1], 1)


def policy_loss(log_p, advantages, missing):
    """-(R_t - b_t) log G(x_t), mean over missing positions, R - b fixed: (n, T) each -> ()."""
    return -(advantages.detach() * log_p)[missing].mean()


def discriminator_loss(real, drawn, missing):
    """-E log D - E log(1 - D) at missing positions, of logits (n, T) of real and drawn -> ()."""
    return -gan.value(real[missing], drawn[missing])


class MaskGAN:
    """A filler, its discriminator and its critic.

    v, length  as in Reader
    holes      n -> missing (n, T) bool, at least one True: draws the holes of a training batch
    discount   c of the returns
    clip       largest |R_t - b_t|
    batch      strings in a step
    options    of the three networks: hidden, dropout (in G by likelihood and in D's own steps)
    """

    def __init__(self, v, length, holes, *, discount=0.89, clip=5.0, batch=64, **options):
        self.holes, self.discount, self.clip, self.batch = holes, discount, clip, batch
        self.generator = Filler(v, length, **options).eval()
        self.discriminator = Reader(v, length, 1, shifted=False, **options).eval()
        self.critic = Reader(v, length, 1, shifted=True, **options).eval()
        self.n_parameters = networks.n_parameters(self.generator, self.discriminator, self.critic)

    def _batch(self, data):
        return data[torch.randint(len(data), (self.batch,))], self.holes(self.batch)

    def fit_likelihood(self, data, steps):
        """MaskMLE: maximum likelihood of the missing tokens of strings (n, T); returns self."""
        count = itertools.count()

        def loss():
            x, missing = self._batch(data)
            missing = missing | (next(count) < ALL_MISSING * steps)
            return -self.generator.log_probs(x, missing)[missing].mean()

        descend(self.generator.train().parameters(), loss, steps, FIT_LR)
        self.generator.eval()
        return self

    def prepare(self, data, steps):
        """Fit D and critic to the fixed G, before the game; returns self."""
        def loss():
            discriminate, _, criticise = self.losses(*self._batch(data))
            return discriminate() + criticise()                # neither reaches the other's weights

        descend([*self.discriminator.parameters(), *self.critic.parameters()], loss, steps,
                PREPARE_LR)
        return self

    def play(self, data, steps):
        """Rounds of the game on strings (n, T); returns self."""
        nets = self.discriminator, self.generator, self.critic
        optimizers = [torch.optim.Adam(net.parameters(), lr, fused=True)
                      for net, lr in zip(nets, GAME_LR, strict=True)]
        for _ in range(steps):
            alternate(*zip(optimizers, self.losses(*self._batch(data)), (1, 1, 1), strict=True))
        return self

    def logits(self, x, missing):
        """a_t of D: (n, T) -> (n, T)."""
        return self.discriminator(x, missing).squeeze(2)

    @torch.no_grad()
    def returns(self, x, missing):
        """R_t of filled strings x: (n, T) -> (n, T)."""
        return returns(F.logsigmoid(self.logits(x, missing)), missing, self.discount)

    def values(self, x, missing):
        """b_t: (n, T) -> (n, T)."""
        return self.critic(x, missing).squeeze(2)

    def advantages(self, x, missing):
        """R_t - b_t within +- clip: (n, T) -> (n, T)."""
        return (self.returns(x, missing) - self.values(x, missing)).clamp(-self.clip, self.clip)

    def losses(self, x, missing):
        """Losses of D, G and critic, functions () -> (), on strings (n, T) and the same fills."""
        drawn = self.generator.fill(x, missing)

        def discriminate():
            self.discriminator.train()
            loss = discriminator_loss(self.logits(x, missing), self.logits(drawn, missing), missing)
            self.discriminator.eval()
            return loss

        def generate():
            log_p = self.generator.log_probs(drawn, missing)
            return policy_loss(log_p, self.advantages(drawn, missing), missing)

        def criticise():
            error = self.returns(drawn, missing) - self.values(drawn, missing)
            return error[missing].square().mean()

        return discriminate, generate, criticise


SIDE, ROWS = views.STRING[1], 4  # of 8 rows of a picture four are missing


def rows_missing(first):
    """Four rows of an 8 x 8 picture from row `first` (n,) on: (n, 64) bool."""
    row = torch.arange(SIDE).repeat_interleave(SIDE)
    return (row >= first[:, None]) & (row < first[:, None] + ROWS)


class Inpainter:
    """A MaskGAN that fills the middle rows of small grey pictures; it has no sample(n)."""

    def __init__(self, model):
        self.model, self.n_parameters = model, model.n_parameters

    def _strings(self, images):
        first = torch.full((len(images),), (SIDE - ROWS) // 2)
        return views.to_strings(images), rows_missing(first)

    def fill(self, images):
        """Images (n, 3, S, S) in [-1, 1] -> (n, 3, 8, 8) with their middle rows drawn."""
        return views.from_strings(self.model.generator.fill(*self._strings(images)))

    def masked(self, images):
        """The input of fill, missing rows mid-grey: (n, 3, S, S) -> (n, 3, 8, 8)."""
        x, missing = self._strings(images)
        return views.from_strings(x).masked_fill(missing.view(-1, 1, SIDE, SIDE), 0.0)

    @torch.no_grad()
    def bits_per_dim(self, images):
        """-log2 p per missing level of images (n, 3, S, S) given the rest; exact."""
        log_p = self.model.generator.log_prob(*self._strings(images))
        return -log_p.mean().item() / (math.log(2) * ROWS * SIDE)


def animals(data, steps=100, rounds=100):
    """MaskGAN of images (n, 3, S, S) in [-1, 1] and mirror images, with any four rows missing.

    steps by likelihood, then as many rounds without G's move as of the game. More steps overfit.
    """
    strings = views.to_strings(torch.cat([data, data.flip(3)]))
    model = MaskGAN(views.STRING_LEVELS, strings.shape[1], batch=36, dropout=0.3,
                    holes=lambda n: rows_missing(torch.randint(SIDE - ROWS + 1, (n,))))
    model.fit_likelihood(strings, steps).prepare(strings, rounds)
    return Inpainter(model.play(strings, rounds))
