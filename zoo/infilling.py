"""The networks of MaskGAN, which read a string with missing tokens.

    memory = LSTM(m(x)),   h_t = LSTM(x_<t) or LSTM(x_<=t), started in the encoder's last state
    attention_t = softmax(h_t' W memory),   output_t = tanh(M [attention_t memory, h_t])

m(x) has a mask token in place of every missing token. The attention is the "general" one, over the
whole encoder, of Luong, Pham and Manning, Effective Approaches to Attention-based Neural Machine
Translation, EMNLP 2015.

Strings are int64 (n, T) in 0 .. v - 1; missing (n, T) is bool, True where a token is missing. The
mask token is number v, the start token v + 1.
"""
import torch
from torch import nn
from torch.nn import functional as F


class Reader(nn.Module):
    """Reads m(x), then x token by token -> n_out numbers at each position.

    v, length  number of different tokens, and of positions
    shifted    True: the decoder reads x_<t at t (generator, critic); False: x_<=t (discriminator)
    hidden     units of each of the two LSTMs
    dropout    fraction of units that training drops between layers
    """

    def __init__(self, v, length, n_out, *, shifted, hidden=64, dropout=0.0):
        super().__init__()
        self.v, self.shifted = v, shifted
        self.token, self.place = nn.Embedding(v + 2, hidden), nn.Embedding(length, hidden)
        self.encoder = nn.LSTM(hidden, hidden, batch_first=True)
        self.decoder = nn.LSTM(hidden, hidden, batch_first=True)
        self.match = nn.Linear(hidden, hidden, bias=False)
        self.mix, self.head = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, n_out)
        self.dropout = nn.Dropout(dropout)

    def _embed(self, x, start=0):
        """Tokens at positions start, start + 1, ..: (n, t) -> (n, t, hidden)."""
        return self.dropout(self.token(x) + self.place.weight[start:start + x.shape[1]])

    def encode(self, x, missing):
        """The encoder's memory (n, T, hidden) of m(x), and its last state."""
        return self.encoder(self._embed(x.masked_fill(missing, self.v)))

    def decode(self, read, memory, state, start=0):
        """Tokens read (n, t) at positions start, start + 1, .. -> (n, t, n_out), the new state."""
        h, state = self.decoder(self._embed(read, start), state)
        attention = (self.match(h) @ memory.transpose(1, 2)).softmax(2)          # (n, t, T)
        h = self.mix(self.dropout(torch.cat([attention @ memory, h], 2))).tanh()
        return self.head(self.dropout(h)), state

    def forward(self, x, missing):
        """(n, T), (n, T) -> (n, T, n_out)."""
        read = F.pad(x[:, :-1], (1, 0), value=self.v + 1) if self.shifted else x
        return self.decode(read, *self.encode(x, missing))[0]


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
        """x (n, T) with its missing tokens drawn from left to right."""
        memory, state = self.encode(x, missing)
        filled, read = torch.empty_like(x), torch.full_like(x[:, :1], self.v + 1)
        for t in range(x.shape[1]):
            logits, state = self.decode(read, memory, state, t)
            drawn = torch.multinomial((logits[:, 0] / temperature).softmax(1), 1)
            read = torch.where(missing[:, t:t + 1], drawn, x[:, t:t + 1])
            filled[:, t] = read[:, 0]
        return filled
