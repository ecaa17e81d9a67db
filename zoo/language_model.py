"""A recurrent language model of strings of tokens.

    p(y) = prod_t p(y_t | y_<t)
    p(y_t | y_<t) = softmax(W h_t + b),   h_t = LSTM(h_(t-1), E y_(t-1))

Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 1997; it is the generator of
Yu et al., SeqGAN, AAAI 2017. log p is exact, in nats per string.

Strings are int64 (n, length) of tokens 0 .. vocabulary - 1. The start token, before the first one,
is number `vocabulary`.
"""
import torch
from torch import nn
from torch.nn import functional as F

from zoo.train import constant, descend


class Language(nn.Module):
    """The language model.

    vocabulary  number of different tokens
    length      tokens of every string
    width       dimensions of the embedding
    hidden      units of the LSTM
    row         0, or the side of a picture: the string is its rows of `row` tokens each, and every
                step also reads its row, its column and the token above
    dropout     fraction of the LSTM's inputs and outputs that training drops
    """

    def __init__(self, vocabulary, length, width=32, hidden=32, row=0, dropout=0.0):
        super().__init__()
        self.vocabulary, self.shape, self.row = vocabulary, (length,), row
        self.before = nn.Embedding(vocabulary + 1, width)
        if row:
            self.above = nn.Embedding(vocabulary + 1, width)
            self.rows, self.columns = nn.Embedding(length // row, width), nn.Embedding(row, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(hidden, vocabulary)

    def inputs(self, tokens, first=0):
        """Inputs of the LSTM in steps first .. t: t tokens (n, t) -> (n, t + 1 - first, width)."""
        t = tokens.shape[1]

        def earlier(steps):
            return F.pad(tokens, (steps, 0), value=self.vocabulary)[:, first:t + 1]

        x = self.before(earlier(1))
        if self.row:
            place = torch.arange(first, t + 1)
            x = x + self.above(earlier(self.row))
            x = x + self.rows(place // self.row) + self.columns(place % self.row)
        return self.dropout(x)

    def step(self, inputs, state=None):
        """Logits (n, steps, vocabulary) after inputs (n, steps, width), and the last LSTM state."""
        h, state = self.lstm(inputs, state)
        return self.head(self.dropout(h)), state

    def forward(self, y):
        """Logits of every token given those before it: (n, length) -> (n, length, vocabulary)."""
        return self.step(self.inputs(y[:, :-1]))[0]

    def log_probs(self, y, temperature=1.0):
        """log p(y_t | y_<t) of every token, nats, logits / temperature: (n, T) -> (n, T)."""
        logits = self(y) / temperature
        return logits.log_softmax(2).gather(2, y.unsqueeze(2)).squeeze(2)

    @torch.no_grad()
    def log_prob(self, y, temperature=1.0):
        """log p(y) in nats, exact, without dropout: (n, length) -> (n,)."""
        return self.eval().log_probs(y, temperature).sum(1)

    def fit(self, y, steps, lr=1e-2, batch=64, weight_decay=0.0):
        """Maximum likelihood on strings y (n, length) for `steps` steps of AdamW; returns self."""
        def loss():
            return -self.log_probs(y[torch.randint(len(y), (batch,))]).sum(1).mean()

        descend(self.train().parameters(), loss, steps, lr, schedule=constant,
                weight_decay=weight_decay)
        return self.eval()

    def sample(self, n, temperature=1.0):
        """n strings (n, length), drawn token by token."""
        return self.complete(torch.zeros(n, 0, dtype=torch.int64), temperature)

    @torch.no_grad()
    def complete(self, prefix, temperature=1.0):
        """Strings that begin with these tokens: (n, t) -> (n, length)."""
        y, state = prefix, None
        while y.shape[1] < self.shape[0]:
            first = 0 if state is None else y.shape[1]
            logits, state = self.eval().step(self.inputs(y, first), state)
            y = torch.cat([y, draw(logits[:, -1] / temperature)], 1)
        return y

    @torch.no_grad()
    def rollouts(self, y, copies):
        """Completions of every prefix of strings y (n, length): (length - 1, copies, n, length).

        Those at place t keep the first t + 1 tokens of y. All are drawn in one batch: the first n
        rows follow y, and after every token each of them adds `copies` rows that share its state.
        """
        (n, length), rows, state = y.shape, y[:, :0], None
        for t in range(length):
            logits, state = self.eval().step(self.inputs(rows, t), state)
            rows = torch.cat([rows, torch.cat([y[:, t:t + 1], draw(logits[n:, -1])])], 1)
            if t < length - 1:
                rows = torch.cat([rows, rows[:n].repeat(copies, 1)])
                state = tuple(torch.cat([s, s[:, :n].repeat(1, copies, 1)], 1) for s in state)
        return rows[n:].view(length - 1, copies, n, length)


def draw(logits):
    """A token from each row of logits: (n, vocabulary) -> (n, 1)."""
    # by the inverse cumulative distribution: torch.multinomial takes 8 times as long on many rows
    below = logits.softmax(1).cumsum(1) < torch.rand(len(logits), 1)
    return below.sum(1, keepdim=True).clamp(max=logits.shape[1] - 1)  # the sum may round below 1
