"""Nets that read a string with holes in it, and fill them: all three of MaskGAN's are such.

    memory = LSTM(m(x)),    h_t = LSTM(x_<t) or LSTM(x_<=t), begun where the encoder ended
    attention_t = softmax(h_t' W memory),    tanh(M [attention_t memory, h_t]) -> what is said at t

m(x) is x with a mask token wherever a token is missing. Luong, Pham and Manning, Effective Approaches to
Attention-based Neural Machine Translation, EMNLP 2015: the "general" score over all of the encoder.

Strings are int64 (n, T) in 0 .. V - 1; missing (n, T) is bool, True where a token is missing.
"""
import torch
from torch import nn
from torch.nn import functional as F


def hide(x, missing, v):
    """m(x): the mask token, v, in place of missing tokens, before anything reads them: (n, T) -> (n, T)."""
    return x.masked_fill(missing, v)


def before(x, v):
    """x_{t-1} at each t, and the start token, v + 1, at the first: (n, T) -> (n, T)."""
    return F.pad(x[:, :-1], (1, 0), value=v + 1)


class Reader(nn.Module):
    """Reads a string with holes, then the filled string token by token -> n_out numbers at each position.

    v, length  tokens are 0 .. v - 1, positions 0 .. length - 1
    shifted    whether at t the decoder has read x_<t (generator, critic), or x_<=t (discriminator)
    hidden     units of each of the two LSTMs
    dropout    share of the units set to 0 between the layers while training
    """

    def __init__(self, v, length, n_out, *, shifted, hidden=64, dropout=0.0):
        super().__init__()
        self.v, self.shifted = v, shifted
        self.token, self.place = nn.Embedding(v + 2, hidden), nn.Embedding(length, hidden)
        self.encoder, self.decoder = (nn.LSTM(hidden, hidden, batch_first=True) for _ in range(2))
        self.match = nn.Linear(hidden, hidden, bias=False)
        self.mix, self.head = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, n_out)
        self.dropout = nn.Dropout(dropout)

    def _embed(self, x, start=0):
        """(n, t) tokens at positions start .. -> (n, t, hidden)."""
        return self.dropout(self.token(x) + self.place.weight[start:start + x.shape[1]])

    def encode(self, x, missing):
        """m(x) as the encoder sees it: (n, T) -> memory (n, T, hidden), its last state.

        Raises ValueError if x is not of tokens, not of T of them, or missing is no mask of x.
        """
        length = self.place.num_embeddings
        if x.is_floating_point() or x.shape[1:] != (length,) or not 0 <= x.min() <= x.max() < self.v:
            raise ValueError(f"strings must be integers from 0 to {self.v - 1}, {length} tokens each; they "
                             f"are {x.dtype} {tuple(x.shape)}, from {x.min()} to {x.max()}")
        if missing.dtype != torch.bool or missing.shape != x.shape:
            raise ValueError(f"missing must be bool {tuple(x.shape)}; it is {missing.dtype} "
                             f"{tuple(missing.shape)}")
        return self.encoder(self._embed(hide(x, missing, self.v)))

    def decode(self, read, memory, state, start=0):
        """Tokens read (n, t) at positions start .. -> (n, t, n_out), the new state."""
        h, state = self.decoder(self._embed(read, start), state)
        attention = (self.match(h) @ memory.transpose(1, 2)).softmax(2)                       # (n, t, T)
        h = self.mix(self.dropout(torch.cat([attention @ memory, h], 2))).tanh()
        return self.head(self.dropout(h)), state

    def forward(self, x, missing):
        """(n, T), (n, T) -> (n, T, n_out)."""
        return self.decode(before(x, self.v) if self.shifted else x, *self.encode(x, missing))[0]


class Filler(Reader):
    """The generator G: a Reader with a softmax over tokens."""

    def __init__(self, v, length, **options):
        super().__init__(v, length, v, shifted=True, **options)

    def log_probs(self, x, missing):
        """log G(x_t | x_<t, m(x)) in nats at every position: (n, T) -> (n, T)."""
        return self(x, missing).log_softmax(2).gather(2, x.unsqueeze(2)).squeeze(2)

    def log_prob(self, x, missing):
        """log p of the missing tokens given the others, nats, exact: (n, T) -> (n,)."""
        return (self.log_probs(x, missing) * missing).sum(1)

    @torch.no_grad()
    def fill(self, x, missing, temperature=1.0):
        """x (n, T) with its missing tokens drawn from the left, each read before the next."""
        memory, state = self.encode(x, missing)
        filled, read = torch.empty_like(x), torch.full_like(x[:, :1], self.v + 1)
        for t in range(x.shape[1]):
            logits, state = self.decode(read, memory, state, t)
            drawn = torch.multinomial((logits[:, 0] / temperature).softmax(1), 1)
            read = torch.where(missing[:, t:t + 1], drawn, x[:, t:t + 1])
            filled[:, t] = read[:, 0]
        return filled
