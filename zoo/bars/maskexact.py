"""What MaskGAN is held to whatever it has learned: values by hand, and sums over all strings.

Equations are those of zoo/maskgan.py; the truth, of datasets.MarkovSource. What it learns: zoo/bars/maskgan.py.
"""
import itertools

import torch
from torch import nn

from runs.files import set_seed
from zoo import datasets, fillers, maskgan, metrics
from zoo.core import Check

SOURCE = "Fedus, Goodfellow and Dai 2018"


def exact():
    """Returns, advantages and masks by hand; leaks; probabilities and gradients by enumeration."""
    return [*_by_hand(), _critics_gradient(), *_leaks(), *_forward_backward(), *_tiny()]


def _by_hand():
    """Rewards 1 2 4 8 16 of which the second, fourth and fifth count, at discount 1/2: 6, 16 and 16."""
    rewards, missing = 2.0 ** torch.arange(5)[None], torch.tensor([[False, True, False, True, True]])
    everywhere = torch.ones_like(missing)

    def first(rewards=rewards, missing=missing, discount=0.5):
        return maskgan.returns(rewards, missing, discount)[0, 1].item()

    back, b = maskgan.returns(rewards, missing, 0.5), torch.tensor([[7.0, 3.0, 7.0, 18.0, 4.0]])
    advantages = maskgan.advantages(back, b, 5.0)
    by_hand = -torch.tensor([[0.0, 3.0, 0.0, -2.0, 5.0]]) / 3            # 6 - 3, 16 - 18, and 16 - 4 clipped

    def off(advantages, missing=missing):
        log_p = torch.zeros(1, 5, requires_grad=True)
        (slope,) = torch.autograd.grad(maskgan.policy_loss(log_p, advantages, missing), log_p)
        return (slope - by_hand).abs().max().item()

    def on_known(missing_in_loss):
        real, drawn = torch.randn(2, 1, 5, requires_grad=True)
        loss = maskgan.discriminator_loss(real, drawn, missing_in_loss)
        return sum(slope[~missing].abs().sum().item() for slope in torch.autograd.grad(loss, (real, drawn)))

    return [
        Check("return of the first missing token, by hand 6", first(), 6, 6, f"{SOURCE}, the returns",
              {"known tokens rewarded": first(missing=everywhere), "no discount": first(discount=1.0),
               "of the past": maskgan.returns(rewards.flip(1), missing.flip(1), 0.5).flip(1)[0, 1].item()}),
        Check("largest slope of the policy loss in log G, off hand values", off(advantages), hi=1e-6,
              source="-(R - b) / 3 at the 3 missing tokens, clipped at 5; 0 at known ones",
              controls={"known tokens too": off(advantages, everywhere), "not clipped": off(back - b),
                        "no critic": off(back.clamp(-5, 5))}),
        Check("sum of |slopes| of D's loss at known tokens", on_known(missing), hi=0, source="0; D is asked "
              "of missing tokens alone", controls={"all tokens": on_known(everywhere)})]


class _TeachesD(maskgan.MaskGAN):
    """Returns keep their gradient: the critic's loss goes on into D."""

    def returns(self, x, missing):
        rewards = nn.functional.logsigmoid(self.judge(x, missing))
        return maskgan.returns(rewards, missing, self.discount)


def _critics_gradient():
    """The critic's loss must teach the critic alone, though its targets come from D."""
    def into_d(kind):
        set_seed(0)
        model, x, missing = kind(3, 5, None, hidden=8), torch.randint(3, (8, 5)), torch.ones(8, 5).bool()
        values = model.values(x, missing)
        loss = (model.returns(x, missing) - values).square().mean() if kind is _TeachesD else \
            maskgan.critic_loss(values, model.returns(x, missing), missing)
        slopes = torch.autograd.grad(loss, [*model.discriminator.parameters()], allow_unused=True)
        return sum(slope.abs().sum().item() for slope in slopes if slope is not None)

    return Check("sum of |slopes| of the critic's loss in the weights of D", into_d(maskgan.MaskGAN), hi=0,
                 source="0; returns are held fixed", controls={"returns with gradient": into_d(_TeachesD)})


class _HiddenLate(fillers.Reader):
    """The encoder reads the answers, and only what it says of their places is blotted out."""

    def encode(self, x, missing):
        memory, state = self.encoder(self._embed(x))
        return memory.masked_fill(missing.unsqueeze(2), 0.0), state


def _leaks():
    """Change one missing token: nothing may move before it is read."""
    missing = torch.tensor([False, True, True, True, True, False])

    def reader(kind=fillers.Reader, shifted=True):
        set_seed(0)
        return kind(4, 6, 4, shifted=shifted, hidden=8).double()

    def context(net):
        x = torch.randint(4, (50, 6))
        other = torch.where(missing, (x + 1) % 4, x)
        first, second = (net.encode(y, missing.expand(50, 6))[0] for y in (x, other))
        return (first - second).abs().max().item()

    def moves(net):
        x = torch.randint(4, (1, 1, 6))

        def outputs(images):
            said = net(images.flatten(1), torch.ones(len(images), 6, dtype=torch.bool))
            return said.transpose(1, 2)[:, None, :, None]

        return metrics.causality(outputs, x, (x + 1) % 4)

    found, source = moves(reader()), "0; the answers are hidden before anything reads them"
    return [
        Check("largest move of the encoder (of G, D and critic) when hidden tokens change", context(reader()),
              hi=0, source=source, controls={"hidden after the encoder": context(reader(_HiddenLate))}),
        Check("largest move of G or critic at or before the changed token", found.leak, hi=1e-12,
              source=source, controls={"decoder reads x_t itself": moves(reader(shifted=False)).leak,
                        "hidden after the encoder": moves(reader(_HiddenLate)).leak}),
        Check("share of later tokens that a drawn token reaches", found.reached, 1, 1, "G(x_t | x_<t, m(x))",
              {"each token drawn for itself": moves(reader(_Apart)).reached})]


class _Apart(fillers.Reader):
    """The decoder does not read what was drawn."""

    def decode(self, read, memory, state, start=0):
        return super().decode(torch.full_like(read, self.v), memory, state, start)


def _small():
    """A source of 3 tokens, all 243 strings of 5 with log p, and a hole in the middle of each."""
    source = datasets.markov_source(1, 3, 5, 0.5)
    every = torch.tensor(list(itertools.product(range(3), repeat=5)))
    return source, every, torch.tensor([False, True, True, False, True]).expand(243, 5)


def _forward_backward():
    """Posteriors of all 243 strings against sums over the strings that agree with the known tokens."""
    source, every, missing = _small()
    agrees = ((every[:, None] == every) | missing[0]).all(2)                               # (string, string)
    joint = source.log_prob(every).exp() * agrees
    share = joint / joint.sum(1, keepdim=True)
    onehot = nn.functional.one_hot(every, 3).double()
    by_sum = (share @ onehot.flatten(1)).unflatten(1, (5, 3))
    left = missing | torch.tensor([False, True, True, True, True])     # to who reads from the left
    steps, blind = source.posterior(every, missing), source.posterior(every, left)

    def fills(steps):
        chosen = datasets.conditionals(steps, every).gather(2, every.unsqueeze(2)).squeeze(2)
        return ((chosen * missing).sum(1) - share.diagonal().log()).abs().max().item()

    def off(values, truth):
        return (values - truth).abs().max().item()

    entropy = torch.special.entr(share).sum(1)
    source = "sums over all strings; Rabiner 1989"
    return [
        Check("forward-backward: largest error of a marginal", off(datasets.marginals(steps), by_sum), hi=1e-9,
              source=source, controls={"right context ignored": off(datasets.marginals(blind), by_sum)}),
        Check("forward-backward: largest error of log p of a fill [nats]", fills(steps), hi=1e-9,
              source=source, controls={"right context ignored": fills(blind)}),
        Check("forward-backward: largest error of the entropy of fills [nats]",
              off(datasets.fill_entropy(steps), entropy), hi=1e-9, source=source,
              controls={"right context ignored": off(datasets.fill_entropy(blind), entropy)})]


def _tiny():
    """A generator of 27 fills: probabilities add up, draws follow them, and so does the policy gradient."""
    source, every, missing = _small()
    set_seed(0)
    hole = missing[0]
    model = maskgan.MaskGAN(3, 5, lambda n: hole.expand(n, 5), discount=1.0, clip=99.0, hidden=16)
    model.imitate(source.sample(500), steps=60)
    fills = every[(every[:, ~hole] == torch.tensor([1, 2])).all(1)]                 # of one context
    missing, n = missing[:27], 4000
    with torch.no_grad():
        log_p = model.generator.log_probs(fills, missing).double()
    p = (log_p * hole).sum(1).exp()

    def frequencies(x):
        return torch.bincount((x[:, hole] * torch.tensor([9, 3, 1])).sum(1), minlength=27).double() / len(x)

    def forced(truth):
        """Drawn with the true tokens before each, not those drawn: teacher forcing left on."""
        with torch.no_grad():
            share = model.generator(truth.expand(n, 5), missing[:1].expand(n, 5)).softmax(2)
        return torch.where(hole, torch.multinomial(share.flatten(0, 1), 1).view(n, 5), truth)

    drawn = model.generator.fill(fills[:1].expand(n, 5), hole.expand(n, 5))
    ideal = fills[torch.multinomial(p, n, replacement=True)]
    off = [metrics.total_variation(p, frequencies(x)) for x in (drawn, ideal, forced(fills[:1]))]
    return [
        Check("log of the sum of p over all 27 fills [nats]", p.sum().log().item(), -1e-5, 1e-5, "0",
              {"known tokens counted too": log_p.sum(1).exp().sum().log().item()}),
        Check("known tokens changed by a fill", (drawn != fills[:1])[:, ~hole].sum().item(), hi=0,
              source="0; known tokens are kept", controls={
                  "every token drawn": (model.generator.fill(fills[:1].expand(n, 5), torch.ones(n, 5).bool())
                                        != fills[:1])[:, ~hole].sum().item()}),
        Check(f"TV of {n} drawn fills to their probabilities", off[0], hi=0.06,
              source=f"draws from the table of probabilities give {off[1]:.3f}",
              controls={"teacher forcing left on": off[2]}),
        _policy_gradient(model, fills, missing)]


def _policy_gradient(model, fills, missing):
    """Sums over all fills: E A grad log G is the gradient of E sum r_t, at discount 1; with any critic b."""
    def slope(loss):
        grads = torch.autograd.grad(loss, [*model.generator.parameters()], retain_graph=True)
        return nn.utils.parameters_to_vector(grads)

    log_p = model.generator.log_probs(fills, missing)
    p = (log_p * missing).sum(1).exp()
    rewards = model.returns(fills, missing)[:, 1]      # from the first missing token on
    truth = slope(-(p * rewards).sum())

    def off(advantages, log_p=log_p):
        weights = len(fills) * missing[0].sum() * p.detach()[:, None]  # undo the mean, which the loss takes
        loss = maskgan.policy_loss(log_p, weights * advantages, missing)
        return ((slope(loss) - truth).norm() / truth.norm()).item()

    said = model.generator(fills[:1].expand(27, 5), missing).log_softmax(2)      # whatever is drawn
    forced = said.gather(2, fills.unsqueeze(2)).squeeze(2)
    with torch.no_grad():
        advantages = model.advantages(fills, missing)
        model.critic.shifted = False
        biased = model.advantages(fills, missing)
        model.critic.shifted = True
    return Check("policy gradient off that of the expected reward, relative", off(advantages), hi=1e-3,
                 source=f"REINFORCE; {SOURCE}, discount 1", controls={
                     "a critic that reads the token it judges": off(biased),
                     "teacher forcing left on": off(advantages, forced)})
