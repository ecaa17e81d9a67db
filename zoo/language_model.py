"""Strings of tokens, one after the other: a recurrent language model, and the oracle made of one.

    p(y) = prod_t p(y_t | y_<t),    p(y_t | y_<t) = softmax(W h_t + b),    h_t = LSTM(h_(t-1), E y_(t-1))

Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 1997; as the generator of Yu et al.,
SeqGAN, AAAI 2017. Fitted by maximum likelihood, or by whoever gives its log_probs a loss. log p is exact, in
nats of one string.

Strings here are int64 (n, length), tokens 0 .. vocabulary - 1. What stands before the first token is a token
of its own, number `vocabulary`.
"""
import copy

import torch
from torch import nn
from torch.nn import functional as F

from runs.files import set_seed


class Language(nn.Module):
    """The language model.

    vocabulary  how many different tokens there are
    length      of every string
    width       of what a token is embedded in
    hidden      units of the LSTM
    row         0: tokens are told apart by what stands before them alone. Otherwise a string is a picture in
                rows of this many tokens, and each step is told its row, its column and the token above, too
    dropout     share of the LSTM's inputs and outputs that is set to 0 in training
    """
    exact = True                 # log_prob is log p itself

    def __init__(self, vocabulary, length, width=32, hidden=32, row=0, dropout=0.0):
        super().__init__()
        if row and length % row:
            raise ValueError(f"{length} tokens cannot be laid out in rows of {row}")
        self.vocabulary, self.length, self.row = vocabulary, length, row
        self.before = nn.Embedding(vocabulary + 1, width)
        if row:
            self.above = nn.Embedding(vocabulary + 1, width)
            self.rows, self.columns = nn.Embedding(length // row, width), nn.Embedding(row, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.lstm.bias_hh_l0.requires_grad_(False).zero_()           # torch adds two biases; one is enough
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(hidden, vocabulary)
        self.history = []        # mean -log p of a batch after each step of fit, nats of a string

    @property
    def n_parameters(self):
        """How many numbers are learned."""
        return sum(p.numel() for p in self.learned())

    def learned(self):
        """The parameters that are learned, a list."""
        return [p for p in self.parameters() if p.requires_grad]

    def _inputs(self, tokens, first=0):
        """What the LSTM reads at steps first .. t, given t tokens (n, t) -> (n, t + 1 - first, width)."""
        t = tokens.shape[1]

        def earlier(steps):
            return F.pad(tokens, (steps, 0), value=self.vocabulary)[:, first:t + 1]

        x = self.before(earlier(1))
        if self.row:
            place = torch.arange(first, t + 1)
            x = x + self.above(earlier(self.row))
            x = x + self.rows(place // self.row) + self.columns(place % self.row)
        return self.dropout(x)

    def _states(self, inputs, state=None):
        """Logits (n, steps, vocabulary) after each of the inputs (n, steps, width), and the last state."""
        h, state = self.lstm(inputs, state)
        return self.head(self.dropout(h)), state

    def forward(self, y):
        """Logits of every token, each given those before it: (n, length) -> (n, length, vocabulary)."""
        return self._states(self._inputs(y[:, :-1]))[0]

    def log_probs(self, y, temperature=1.0):
        """log p(y_t | y_<t) of every token, nats: (n, length) -> the same; dropout if the module trains.

        temperature  what logits are divided by: of the distribution that is drawn from at that temperature

        Raises ValueError if y is not of tokens or not of this length.
        """
        if y.dim() != 2 or y.shape[1] != self.length or y.is_floating_point():
            raise ValueError(f"strings must be integers (n, {self.length}); they are {y.dtype} "
                             f"{tuple(y.shape)}")
        if len(y) and not 0 <= y.min() <= y.max() < self.vocabulary:
            raise ValueError(f"tokens must be from 0 to {self.vocabulary - 1}; they are {y.min()} to "
                             f"{y.max()}")
        return (self(y) / temperature).log_softmax(2).gather(2, y.unsqueeze(2)).squeeze(2)

    @torch.no_grad()
    def log_prob(self, y, temperature=1.0):
        """log p(y) in nats, exact: (n, length) -> (n,)."""
        return self.eval().log_probs(y, temperature).sum(1)

    def fit(self, y, *, steps, seed=0, lr=1e-2, batch=64, decay=0.0, held_out=None, every=20):
        """Maximum likelihood, Adam on random batches of y (n, length) -> self.

        decay     of the weights, as of AdamW
        held_out  strings (m, length): the weights are those that gave them the highest log p, looked at
                  after every `every` steps; None: the last ones
        """
        set_seed(seed)
        optimizer, best, kept = torch.optim.AdamW(self.learned(), lr, weight_decay=decay), None, None
        for step in range(1, steps + 1):
            loss = -self.train().log_probs(y[torch.randint(len(y), (min(batch, len(y)),))]).sum(1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            self.history.append(loss.item())
            if held_out is not None and step % every == 0:
                log_p = self.log_prob(held_out).mean()
                if best is None or log_p > best:
                    best, kept = log_p, copy.deepcopy(self.state_dict())
        if kept is not None:
            self.load_state_dict(kept)
        return self.eval()

    def sample(self, n, temperature=1.0):
        """n strings (n, length), token by token."""
        return self.complete(torch.zeros(n, 0, dtype=torch.int64), temperature)

    @torch.no_grad()
    def complete(self, prefix, temperature=1.0):
        """Strings that begin with these tokens, drawn token by token: (n, t) -> (n, length)."""
        y, state = prefix, None
        while y.shape[1] < self.length:
            first = 0 if state is None else y.shape[1]
            logits, state = self.eval()._states(self._inputs(y, first), state)
            y = torch.cat([y, _draw(logits[:, -1] / temperature)], 1)
        return y

    @torch.no_grad()
    def rollouts(self, y, copies):
        """Strings that begin as y (n, length) does: (length - 1, copies, n, length).

        Those at place t have the first t + 1 tokens of y. All are drawn side by side: at every step each
        string of y, which stand first among the rows, sends off new ones that begin in its state.
        """
        n, rows, state = len(y), y[:, :0], None
        for t in range(self.length):
            logits, state = self.eval()._states(self._inputs(rows, t), state)
            rows = torch.cat([rows, torch.cat([y[:, t:t + 1], _draw(logits[n:, -1])])], 1)
            if t < self.length - 1:
                rows = torch.cat([rows, rows[:n].repeat(copies, 1)])
                state = tuple(torch.cat([s, s[:, :n].repeat(1, copies, 1)], 1) for s in state)
        return rows[n:].view(self.length - 1, copies, n, self.length)


def _draw(logits):
    """A token for each row of logits: (n, vocabulary) -> (n, 1).

    By the inverse of the cumulative probability: of many rows, in an eighth of torch.multinomial's time.
    """
    below = logits.softmax(1).cumsum(1) < torch.rand(len(logits), 1)
    return below.sum(1, keepdim=True).clamp(max=logits.shape[1] - 1)           # rounded, the sum may miss 1


def oracle(vocabulary=100, length=12, hidden=32, seed=0):
    """A world of strings whose every log p is known: a Language with all its weights drawn from N(0, 1).

    Yu et al. 2017, Section "Synthetic Data Experiments", with fewer and shorter strings. One seed, one world;
    the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        world = Language(vocabulary, length, hidden, hidden).requires_grad_(False)
        for p in world.parameters():
            p.normal_()
        world.lstm.bias_hh_l0.zero_()
    return world.eval()
