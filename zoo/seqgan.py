"""SeqGAN: a language model taught by a discriminator, through the policy gradient.

    J(theta) = E D(Y),  Y ~ G_theta;    the gradient of J = E sum_t Q(Y_<t, y_t) grad log G(y_t | Y_<t)

    Q(Y_<t, y_t) = (1/N) sum_n D(Y^n),  Y^n ~ G_beta given Y_1:t,   if t < T;    D(Y)   if t = T

    (1) fit G by maximum likelihood; beta <- theta; fit D to tell strings of G from the data
    (2) discriminate, k times:  descend -E log D(data) - E log(1 - D(Y)) in the weights of D
    (3) generate:               draw Y, find Q, and ascend J in theta; then move beta towards theta

Yu, Zhang, Wang and Yu, SeqGAN: Sequence Generative Adversarial Nets with Policy Gradient, AAAI 2017: Q is
Eq. 4, the loss of D Eq. 5, the gradient Eq. 7, the steps Algorithm 1. Tokens are drawn, not computed: no
gradient goes from D into G, and every token is told by Q alone how good it was. The discriminator is that of
their Section "The Discriminative Model for Sequences", a CNN with a highway layer. Beta follows theta as a
running mean, as in the authors' program; the paper copies it.

G has an exact log p before and after, which shows what the game did to it: zoo/bars/seqgan.py.
"""
import copy
import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from runs.files import set_seed
from zoo import core, views
from zoo.gan import value
from zoo.language_model import Language


class Discriminator(nn.Module):
    """Strings (n, length) -> logits (n,): convolutions of several widths, the largest answer of each filter
    along the string, a highway layer (Srivastava, Greff and Schmidhuber 2015), dropout, and a linear layer.

    vocabulary  how many different tokens there are
    widths      of the convolutions, in tokens; none may be longer than a string
    filters     of each width
    width       of what a token is embedded in
    dropout     share of features that is set to 0 in training
    """

    def __init__(self, vocabulary, widths=(2, 3, 4), filters=32, width=32, dropout=0.25):
        super().__init__()
        self.embedding, n = nn.Embedding(vocabulary, width), len(widths) * filters
        self.convolutions = nn.ModuleList(nn.Conv1d(width, filters, k) for k in widths)
        self.gate, self.transform = nn.Linear(n, n), nn.Linear(n, n)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(n, 1))

    def forward(self, y):
        x = self.embedding(y).mT
        x = torch.cat([layer(x).amax(2).relu() for layer in self.convolutions], 1)
        share = self.gate(x).sigmoid()
        return self.head(share * self.transform(x).relu() + (1 - share) * x).squeeze(1)

    @torch.no_grad()
    def chance(self, y):
        """D(Y), how likely a string is to be real, without dropout: (n, length) -> (n,)."""
        return self.eval()(y).sigmoid()


def action_values(y, policy, discriminator, copies):
    """Q of every token of strings y (n, T), Eq. 4 -> (n, T).

    Up to the last token: the mean D of `copies` strings that begin likewise and end as the policy has it.
    """
    ends = policy.rollouts(y, copies)                                           # (T - 1, copies, n, T)
    inner = discriminator.chance(ends.flatten(0, 2)).view(ends.shape[:3]).mean(1)
    return torch.cat([inner, discriminator.chance(y)[None]]).T


def policy_loss(log_probs, q):
    """-sum_t Q log G(y_t | Y_<t), mean over strings: its slope is that of -J, Eq. 7. (n, T) twice -> ()."""
    return -(log_probs * q).sum(1).mean()


class SeqGAN:
    """A language model and the discriminator that teaches it.

    language       a strings.Language, best fitted before
    discriminator  a Discriminator
    copies         N, ends of a string that are drawn to judge a token
    average        decay of the running mean of G's weights that draws those ends; 0: G itself
    baseline       whether the batch's mean of Q at a place is taken from Q: the gradient has less variance,
                   and is as it was but for a factor 1 - 1 / batch, since that mean holds the token's own Q
    k              steps of D for each of G
    lr, lr_d       of Adam, for G and for D; that of G falls along a line to 0
    batch          strings of each kind in a step

    Raises ValueError if k or copies is below 1, or average not in [0, 1).
    """

    def __init__(self, language, discriminator, *, copies=16, average=0.8, baseline=False, k=1, lr=1e-3,
                 lr_d=1e-3, batch=64):
        if k < 1 or copies < 1 or not 0 <= average < 1:
            raise ValueError("k and copies must be at least 1 and average in [0, 1); they are "
                             f"{k}, {copies}, {average}")
        self.language, self.discriminator, self.policy = language, discriminator, copy.deepcopy(language)
        self.copies, self.average, self.baseline, self.k, self.batch = copies, average, baseline, k, batch
        self.opt_g = torch.optim.Adam(language.learned(), lr)
        self.opt_d = torch.optim.Adam(discriminator.parameters(), lr_d)
        self.history = []        # -V of D and the mean Q of G's strings after each round

    @property
    def n_parameters(self):
        """How many numbers are learned, those of the discriminator too."""
        return self.language.n_parameters + core.n_parameters(self.discriminator)

    def discriminator_loss(self, real):
        """-V on real strings (n, T) and as many fresh ones of G, Eq. 5 -> ()."""
        fake = self.language.sample(len(real))
        return -value(*self.discriminator.train()(torch.cat([real, fake])).chunk(2))

    def values(self, y):
        """Q of every token of strings y (n, T) -> (n, T)."""
        return action_values(y, self.policy, self.discriminator, self.copies)

    def generator_loss(self):
        """What G descends, on fresh strings -> ()."""
        y = self.language.sample(self.batch)
        q = self.values(y)
        self.mean_value = q.mean().item()
        return policy_loss(self.language.log_probs(y), q - q.mean(0) if self.baseline else q)

    def fit(self, data, *, steps, first=200, seed=0):
        """Algorithm 1 from its line 3 on, on data (n, T) for `steps` steps of G -> self.

        first  steps of D before G takes its first one
        """
        set_seed(seed)

        def discriminate():
            return self.discriminator_loss(data[torch.randint(len(data), (self.batch,))])

        core.alternate((self.opt_d, discriminate, first))
        falling = LambdaLR(self.opt_g, lambda step: 1 - step / steps)
        for _ in range(steps):
            loss, _ = core.alternate((self.opt_d, discriminate, self.k), (self.opt_g, self.generator_loss, 1))
            self.history.append((loss, self.mean_value))
            falling.step()
            with torch.no_grad():
                for mean, weight in zip(self.policy.parameters(), self.language.parameters(), strict=True):
                    mean.lerp_(weight, 1 - self.average)
        return self

    def sample(self, n):
        """n strings (n, T)."""
        return self.language.sample(n)


# ---------------------------------------------------------------------------------------------------- animals

class Faces:
    """A SeqGAN of strings that are pictures, as a sampler of images in [-1, 1].

    It has no log_prob: probabilities of levels are no density of the images from which they were made.
    """
    view = views.name(views.STRING, views.STRING_LEVELS)

    def __init__(self, model):
        self.model, self.n_parameters, self.history = model, model.n_parameters, model.history

    def sample(self, n):
        """n images (n, 3, 8, 8): each value the centre of its bin."""
        return views.from_strings(self.model.sample(n))

    def bits_per_dim(self, images):
        """Bits for each value of images (n, 3, S, S) in this view, exact; 4 if nothing were known."""
        y = views.to_strings(images)
        return -self.model.language.log_prob(y).mean().item() / (math.log(2) * y.shape[1])


seen = views.in_strings


def animals(data, seed=0, fit_steps=400, first=100, steps=60):
    """Maximum likelihood, then SeqGAN, of images (n, 3, S, S) in [-1, 1] and their mirror images -> Faces.

    Each picture is 64 tokens of 16 levels, row by row, and G is told place and the token above.
    """
    set_seed(seed)
    tokens = views.to_strings(data, mirrored=True)
    language = Language(views.STRING_LEVELS, tokens.shape[1], 48, 48, row=views.STRING[2], dropout=0.5)
    language.fit(tokens, steps=fit_steps, seed=seed, lr=5e-3, batch=18, decay=0.1)
    judge = Discriminator(views.STRING_LEVELS, dropout=0.5)
    model = SeqGAN(language, judge, copies=2, baseline=True, batch=16)
    return Faces(model.fit(tokens, steps=steps, first=first, seed=seed))
