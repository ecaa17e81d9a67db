"""MaskGAN: missing tokens of a string are filled in, and a discriminator says of each whether it looks real.

    m(x)                                          x with a mask token wherever a token is missing
    G(x_t | x_<t, m(x))                           the generator draws the missing tokens from the left
    D(x_t | x_<=t, m(x)) = sigmoid(a_t)           the discriminator says of each token: real, not drawn
    r_t = log D(x_t | x_<=t, m(x)),               reward of a drawn token
    R_t = sum_{s >= t, s missing} c^(s - t) r_s   discounted return over missing positions alone

    (1) discriminate:  ascend E log D of real tokens + E log(1 - D) of drawn ones, at missing positions
    (2) generate:      ascend E sum_t (R_t - b_t) log G(x_t | x_<t, m(x)), R - b held fixed (REINFORCE)
    (3) criticise:     descend E (R_t - b_t)^2 in the weights of the critic b_t = b(x_<t, m(x))

Fedus, Goodfellow and Dai, MaskGAN: Better Text Generation via Filling in the ______, ICLR 2018. Before the
game the generator learns by maximum likelihood: first with every token missing, as a language model, then as
a filler. Left there, it is their baseline MaskMLE. As there, all three nets are alike (zoo/fillers.py): an
encoder reads m(x), a decoder reads the string and attends to what the encoder saw. What is not theirs: the
embedding knows the place of a token, and the critic has weights of its own.

Strings are int64 (n, T) in 0 .. V - 1; missing (n, T) is bool, True where a token must be drawn.
"""
import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from runs.files import set_seed
from zoo import gan, networks, views
from zoo.fillers import Filler, Reader
from zoo.train import alternate


def returns(rewards, missing, discount):
    """R_t = sum_{s >= t, s missing} discount^(s - t) r_s: (n, T) -> (n, T)."""
    total, sums = torch.zeros_like(rewards[:, 0]), []
    for t in reversed(range(rewards.shape[1])):
        total = rewards[:, t] * missing[:, t] + discount * total
        sums.append(total)
    return torch.stack(sums[::-1], 1)


def advantages(returns, values, clip):
    """A_t = R_t - b_t, held within +- clip: (n, T), (n, T) -> (n, T)."""
    return (returns - values).clamp(-clip, clip)


def policy_loss(log_p, advantages, missing):
    """-A_t log G(x_t), mean over missing positions, A held fixed: (n, T) each -> ()."""
    return -(advantages.detach() * log_p)[missing].mean()


def critic_loss(values, returns, missing):
    """(R_t - b_t)^2, mean over missing positions, R held fixed: (n, T) each -> ()."""
    return (returns.detach() - values)[missing].square().mean()


def discriminator_loss(real, drawn, missing):
    """-E log D of real tokens - E log(1 - D) of drawn ones at missing positions, of logits (n, T) -> ()."""
    return -gan.value(real[missing], drawn[missing])


class MaskGAN:
    """A filler, and the discriminator and critic that teach it.

    v, length  as of Reader
    holes      n -> missing (n, T) bool, at least one True: how holes are drawn while training
    discount   c of the returns
    clip       the advantages R_t - b_t are held within +- clip
    lr         of Adam, for G by likelihood, and for D and critic before the game: both fall along a cosine;
               then in the game for G, and for D and critic
    batch      strings in a step
    options    of the three nets: hidden, dropout
    """

    def __init__(self, v, length, holes, *, discount=0.89, clip=5.0, lr=(8e-3, 4e-3, 1e-4, 1e-3), batch=64,
                 **options):
        if not 0 <= discount <= 1 or clip <= 0:
            raise ValueError(f"discount must be within 0 and 1, clip positive; they are {discount}, {clip}")
        self.holes, self.discount, self.clip, self.lr, self.batch = holes, discount, clip, lr, batch
        self.generator = Filler(v, length, **options)
        self.discriminator = Reader(v, length, 1, shifted=False, **options)
        self.critic = Reader(v, length, 1, shifted=True, **options)
        nets = self.generator, self.discriminator, self.critic
        nn.ModuleList(nets).eval()             # dropout is for likelihood, and for D while it learns
        self.opt_g, self.opt_d, self.opt_b = (torch.optim.Adam(net.parameters(), rate, fused=True)
                                              for net, rate in zip(nets, (lr[2], lr[3], lr[3]), strict=True))
        self.history = []        # losses of each step: of G by likelihood, nats of a missing token; of D and
                                 # critic before the game; of D, G and critic in it

    @property
    def n_parameters(self):
        """How many numbers are learned, those of D and of the critic too."""
        return networks.n_parameters(self.generator, self.discriminator, self.critic)

    def _batch(self, data):
        x = data[torch.randint(len(data), (self.batch,))]
        missing = self.holes(len(x))
        if not missing.any():
            raise ValueError("no token is missing: there is nothing to learn from")
        return x, missing

    def _descend(self, nets, rate, losses, steps):
        """Adam on losses(), one for each of the nets; the rate falls along a cosine."""
        optimizers = [torch.optim.Adam(net.parameters(), rate, fused=True) for net in nets]
        falling = [CosineAnnealingLR(optimizer, steps) for optimizer in optimizers]
        nets.train()
        for _ in range(steps):
            self._round(optimizers, losses())
            for rates in falling:
                rates.step()
        nets.eval()

    def _round(self, optimizers, losses):
        self.history.append(tuple(alternate(*zip(optimizers, losses, [1] * len(losses), strict=True))))

    def imitate(self, data, *, steps, alone=0.2):
        """Maximum likelihood on strings (n, T), MaskMLE -> self.

        alone  share of the steps, the first ones, in which every token is missing: a language model
        """
        def surprise():
            x, missing = self._batch(data)
            if len(self.history) < begun + alone * steps:
                missing = torch.ones_like(missing)
            return -self.generator.log_probs(x, missing)[missing].mean()

        begun = len(self.history)
        self._descend(nn.ModuleList([self.generator]), self.lr[0], lambda: [surprise], steps)
        return self

    def prepare(self, data, *, steps):
        """Rounds without G's move, so that the game begins with D and critic that know something -> self."""
        self._descend(nn.ModuleList([self.discriminator, self.critic]), self.lr[1],
                      lambda: self.losses(*self._batch(data))[::2], steps)
        return self

    def judge(self, x, missing):
        """Logits a_t of D: (n, T) -> (n, T)."""
        return self.discriminator(x, missing).squeeze(2)

    @torch.no_grad()
    def returns(self, x, missing):
        """R_t of filled strings x: (n, T) -> (n, T)."""
        return returns(F.logsigmoid(self.judge(x, missing)), missing, self.discount)

    def values(self, x, missing):
        """b_t: (n, T) -> (n, T)."""
        return self.critic(x, missing).squeeze(2)

    def advantages(self, x, missing):
        """R_t - b_t within +- clip: (n, T) -> (n, T)."""
        return advantages(self.returns(x, missing), self.values(x, missing), self.clip)

    def losses(self, x, missing):
        """Losses of D, G and critic on strings (n, T): functions without arguments, of the same drawn fills.

        A new round needs new ones: the fills are drawn before any of them moves G.
        """
        drawn = self.generator.fill(x, missing)

        def discriminate():
            self.discriminator.train()
            loss = discriminator_loss(self.judge(x, missing), self.judge(drawn, missing), missing)
            self.discriminator.eval()
            return loss

        def generate():
            log_p = self.generator.log_probs(drawn, missing)
            return policy_loss(log_p, self.advantages(drawn, missing), missing)

        def criticise():
            return critic_loss(self.values(drawn, missing), self.returns(drawn, missing), missing)

        return discriminate, generate, criticise

    def play(self, data, *, steps):
        """Rounds of the game on strings (n, T) -> self."""
        for _ in range(steps):
            self._round((self.opt_d, self.opt_g, self.opt_b), self.losses(*self._batch(data)))
        return self


# ---------------------------------------------------------------------------------------------------- animals

SIDE, ROWS = views.STRING[1], 4            # of 8 rows of levels four are missing


def rows_missing(first):
    """Four rows of 8 x 8 from the rows `first` (n,) on: (n, 64) bool."""
    row = torch.arange(SIDE).repeat_interleave(SIDE)
    return (row >= first[:, None]) & (row < first[:, None] + ROWS)


class Inpainter:
    """A MaskGAN of small grey pictures, strings of 64 levels: it fills the middle rows of images.

    It has no sample(n): what it fills depends on what is left of an image.
    """
    view = f"half of {views.name(views.STRING, views.STRING_LEVELS)}"

    def __init__(self, model):
        self.model, self.n_parameters, self.history = model, model.n_parameters, model.history

    def _strings(self, images):
        return views.to_strings(images), rows_missing(torch.full((len(images),), (SIDE - ROWS) // 2))

    def fill(self, images):
        """Images (n, 3, S, S) in [-1, 1] -> (n, 3, 8, 8): their middle rows drawn, the others kept."""
        return views.from_strings(self.model.generator.fill(*self._strings(images)))

    def masked(self, images):
        """What a fill is given, the missing rows in mid grey: (n, 3, S, S) -> (n, 3, 8, 8)."""
        x, missing = self._strings(images)
        return views.from_strings(x).masked_fill(missing.view(-1, 1, SIDE, SIDE), 0.0)

    @torch.no_grad()
    def bits_per_dim(self, images):
        """-log2 p of each missing level of images (n, 3, S, S) given the rest of it; exact."""
        log_p = self.model.generator.log_prob(*self._strings(images))
        return -log_p.mean().item() / (math.log(2) * ROWS * SIDE)


def animals(data, seed=0, steps=100, rounds=100):
    """Fills of four rows of images (n, 3, S, S) in [-1, 1] as strings of 8 x 8 levels -> Inpainter.

    Any four rows in turn are missing while it learns: `steps` by likelihood, `rounds` without G's move,
    and as many of the game. Few steps: with so few images every further one learns them by heart.
    """
    set_seed(seed)
    strings = views.to_strings(data, mirrored=True)
    model = MaskGAN(views.STRING_LEVELS, strings.shape[1], batch=36, dropout=0.3,
                    holes=lambda n: rows_missing(torch.randint(SIDE - ROWS + 1, (n,))))
    model.imitate(strings, steps=steps).prepare(strings, steps=rounds)
    return Inpainter(model.play(strings, steps=rounds))
