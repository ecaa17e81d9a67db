"""SeqGAN: a language model that learns from a discriminator by policy gradients.

    J(theta) = E D(Y),  Y ~ G_theta;   grad J = E sum_t Q(Y_<t, y_t) grad log G(y_t | Y_<t)

    Q(Y_<t, y_t) = (1/N) sum_n D(Y^n),  Y^n ~ G_beta given Y_1:t,   for t < T;    D(Y)   for t = T

    (1) fit G by maximum likelihood; beta <- theta; fit D to tell strings of G from the data
    (2) discriminate, k times:  descend -E log D(data) - E log(1 - D(Y)) in the weights of D
    (3) generate:               draw Y, compute Q, ascend J in theta; then move beta towards theta

Yu, Zhang, Wang and Yu, SeqGAN: Sequence Generative Adversarial Nets with Policy Gradient, AAAI
2017: Q is Eq. 4, the loss of D Eq. 5, the gradient Eq. 7, the steps Algorithm 1; D is the CNN with
a highway layer of Section "The Discriminative Model for Sequences". No gradient passes from D into
G. As in the authors' program, beta is a running mean of theta. Q has a baseline, its batch mean at
each place: it lowers the variance and scales the expected gradient by 1 - 1 / batch, since the
mean holds the token's own Q.
"""
import torch
from torch import nn

from zoo import networks, views
from zoo.autoregressive import Thumbnails
from zoo.gan import value
from zoo.language_model import Language
from zoo.train import alternate, linear, running_mean, scheduled

ROLLOUT_DECAY = 0.8              # of the running mean of G's weights, beta
COPIES = 2                       # N, completions that judge a token


class Discriminator(nn.Module):
    """Strings (n, length) -> logits (n,): convolutions, max over the string, highway layer, linear.

    Highway layer: Srivastava, Greff and Schmidhuber 2015.

    widths   of the convolutions, in tokens, at most the length of a string
    filters  of each width
    width    dimensions of the embedding
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
        gate = self.gate(x).sigmoid()
        return self.head(gate * self.transform(x).relu() + (1 - gate) * x).squeeze(1)

    @torch.no_grad()
    def probability(self, y):
        """D(Y), the probability that a string is real, without dropout: (n, length) -> (n,)."""
        return self.eval()(y).sigmoid()


def action_values(y, policy, discriminator, copies=COPIES):
    """Q of every token of strings y, Eq. 4: (n, T) -> (n, T)."""
    completed = policy.rollouts(y, copies)                            # (T - 1, copies, n, T)
    shape = completed.shape[:3]
    inner = discriminator.probability(completed.flatten(0, 2)).view(shape).mean(1)
    return torch.cat([inner, discriminator.probability(y)[None]]).T


def policy_loss(log_probs, q):
    """-sum_t Q log G(y_t | Y_<t), mean over strings, with gradient -grad J, Eq. 7: (n, T) -> ()."""
    return -(log_probs * q).sum(1).mean()


class SeqGAN:
    """A pretrained Language and its Discriminator.

    k         steps of D for each of G
    lr, lr_d  learning rates of Adam for G, which falls linearly to 0, and for D
    batch     strings of each kind in a step
    """

    def __init__(self, language, discriminator, *, k=1, lr=1e-3, lr_d=1e-3, batch=64):
        self.language, self.discriminator = language, discriminator
        self.shape, self.k, self.batch = language.shape, k, batch
        self.rollout = running_mean(language, ROLLOUT_DECAY)
        self.opt_g = torch.optim.Adam(language.parameters(), lr)
        self.opt_d = torch.optim.Adam(discriminator.parameters(), lr_d)
        self.sample, self.log_prob = language.sample, language.log_prob
        self.n_parameters = networks.n_parameters(language, discriminator)

    def discriminator_loss(self, real):
        """-V on real strings (n, T) and as many fresh ones of G, Eq. 5 -> ()."""
        both = torch.cat([real, self.language.sample(len(real))])
        return -value(*self.discriminator.train()(both).chunk(2))

    def generator_loss(self):
        """policy_loss on fresh strings, with Q less its batch mean at each place -> ()."""
        y = self.language.sample(self.batch)
        q = action_values(y, self.rollout.module, self.discriminator)
        return policy_loss(self.language.log_probs(y), q - q.mean(0))

    def fit(self, data, steps, first=200):
        """Algorithm 1 from line 3 on data (n, T): `first` steps of D, `steps` rounds."""
        def discriminate():
            return self.discriminator_loss(data[torch.randint(len(data), (self.batch,))])

        alternate((self.opt_d, discriminate, first))
        scheduler = scheduled(self.opt_g, steps, linear)
        for _ in range(steps):
            alternate((self.opt_d, discriminate, self.k), (self.opt_g, self.generator_loss, 1))
            scheduler.step()
            self.rollout.update_parameters(self.language)
        return self


def animals(data, fit_steps=400, first=100, steps=60):
    """SeqGAN of images (n, 3, S, S) in [-1, 1] and mirror images, as strings of 8 x 8 greys."""
    shape, levels = views.STRING, views.STRING_LEVELS
    strings = views.to_strings(torch.cat([data, data.flip(3)]))
    language = Language(levels, strings.shape[1], 48, 48, row=shape[2], dropout=0.5)
    language.fit(strings, fit_steps, lr=5e-3, batch=18, weight_decay=0.1)
    model = SeqGAN(language, Discriminator(levels, dropout=0.5), batch=16)
    return Thumbnails(model.fit(strings, steps, first), shape, levels)
