"""What SeqGAN is held to: all strings of three tokens by enumeration, and an oracle's strings.

Equations are those of zoo/seqgan.py. KL(G || o) = NLL_oracle - H(G) asks whether G's strings are likely under
the oracle, KL(o || G) = NLL_test - H(o) whether G knows all that the oracle writes. NLL_oracle alone falls,
too, if G merely writes less variety, as it does at a low temperature (Caccia et al., Language GANs Falling
Short, ICLR 2020): it is never shown here without the others.
"""
import copy
import itertools
import types
from typing import NamedTuple

import torch
from torch.nn.utils import parameters_to_vector

from runs.files import set_seed
from zoo import metrics, strings
from zoo.core import Check
from zoo.language_model import Language
from zoo.seqgan import Discriminator, SeqGAN, action_values, policy_loss

COLD = 0.7                       # temperature of the baseline
GAMES = 3                        # of each kind, of which the mean is taken: a single one wanders by .05 nats


# ------------------------------------------------------------------------------------------------------ exact

def exact():
    """log p adds up to 1 and is what is drawn; Q and the policy gradient are those of the enumeration."""
    set_seed(1)
    every = torch.tensor(list(itertools.product(range(3), repeat=3)))
    g, d = _peaked(Language(3, 3, 4, 4)), Discriminator(3, (1, 2, 3), filters=8, width=8, dropout=0.5)
    d.head[1].weight.data *= 12
    stale = _peaked(Language(3, 3, 4, 4))
    broken = {"copies and strings mixed up": lambda y, copies: _mixed_up(y, g, d, copies),
              "D with dropout": lambda y, copies: action_values(y, g, _dropping(d), copies),
              "ends by another policy": lambda y, copies: action_values(y, stale, d, copies),
              "Q of the token before": lambda y, copies: action_values(y, g, d, copies)[:, [0, 0, 1]]}

    def right(y, copies):
        return action_values(y, g, d, copies)

    return [*_normalised(g, every), *_values(g, d, every, right, broken),
            *_gradient(g, d, every, right, broken)]


def _peaked(g):
    """The language model with larger weights, so that its strings are far from equally likely."""
    with torch.no_grad():
        for p in g.parameters():
            p *= 2.5
    return g


def _dropping(d):
    """A discriminator that judges as it trains, with dropout."""
    return types.SimpleNamespace(chance=lambda y: d.train()(y).sigmoid().detach())


def _mixed_up(y, g, d, copies):
    """Q with D's answers read back as if all ends of a string stood together."""
    chances = d.chance(g.rollouts(y, copies).flatten(0, 2)).view(len(y), -1, copies)
    return torch.cat([chances.mean(2), d.chance(y)[:, None]], 1)


class _Leaking(Language):
    """A language model that is shown the token which it is asked for."""

    def forward(self, y):
        return self._states(self._inputs(y)[:, 1:])[0]


def _normalised(g, every):
    set_seed(2)
    picture, leaking = Language(3, 4, 8, 8, row=2), _Leaking(3, 3, 8, 8)
    squares = torch.tensor(list(itertools.product(range(3), repeat=4)))
    leaks = leaking.fit(every, steps=20).log_prob(every).logsumexp(0).item()

    def off(y, temperature=1.0):
        counts = torch.bincount((y * torch.tensor([9, 3, 1])).sum(1), minlength=27)
        return metrics.total_variation(g.log_prob(every, temperature).exp(), counts / len(y))

    n = 20_000
    drawn, cold = g.sample(n), g.sample(n, COLD)
    mixed = torch.cat([drawn[:, :1], g.sample(n)[:, 1:]], 1)
    return [Check(f"log of the sum of p over all strings of {name} [nats]",
                  net.log_prob(y).logsumexp(0).item(), -1e-4, 1e-4, "0",
                  {"shown the token itself, 20 steps of learning": leaks})
            for name, net, y in (("3 tokens", g, every),
                                 ("4 tokens in 2 rows", picture.fit(squares[:9], steps=20), squares))] + [
        Check(f"TV of {n} strings to their probabilities", off(drawn), hi=0.02,
              source="by enumeration; draws from the table give about .01",
              controls={f"drawn at temperature {COLD}": off(cold)}),
        Check(f"likewise, the last two tokens drawn anew, given {n} first ones",
              off(g.complete(drawn[:, :1])), hi=0.02, source="by enumeration",
              controls={"ends of other strings": off(mixed)}),
        Check(f"likewise at temperature {COLD}", off(cold, COLD), hi=0.02, source="by enumeration",
              controls={"temperature 1": off(drawn, COLD)})]


def _values(g, d, every, right, broken, copies=300):
    """Monte Carlo Q of all 12 beginnings against sums over their ends, in standard errors of the estimate."""
    p, chance = g.log_prob(every).exp().double(), d.chance(every).double()
    worst = {}
    for name, values in {"": right, **broken}.items():
        set_seed(3)
        q, errors = values(every, copies).double(), []
        for t in (1, 2):
            same = (every[:, None, :t] == every[None, :, :t]).all(2).double()         # (27, 27)
            share = same * p / (same * p).sum(1, keepdim=True)
            mean, square = share @ chance, share @ chance.square()
            se = ((square - mean.square()) / (copies * same.sum(1))).sqrt()
            errors.append(((same @ q[:, t - 1] / same.sum(1) - mean) / se).abs().max().item())
        worst[name] = max(errors)
    set_seed(3)
    last = (right(every, 2)[:, 2] - chance).abs().max().item()
    dropped = (broken["D with dropout"](every, 2)[:, 2] - chance).abs().max().item()
    return [Check("largest |Q - exact Q| of 12 beginnings [standard errors]", worst.pop(""), hi=3,
                  source="Yu et al. 2017, Eq. 4, t < T; by enumeration", controls=worst),
            Check("Q of a last token less D of its string, largest", last, hi=1e-6,
                  source="Yu et al. 2017, Eq. 4, t = T", controls={"D with dropout": dropped})]


def _gradient(g, d, every, right, broken, repeats=24, batch=128):
    """The mean of estimates against the slope of sum_Y p(Y) D(Y), both over all weights of G."""
    weights = g.learned()
    truth = _slope((g.eval().log_probs(every).sum(1).exp() * d.chance(every)).sum(), weights)

    def off(values, centre=None):
        set_seed(4)
        found = []
        for _ in range(repeats):
            y = g.sample(batch)
            q = values(y, 2)
            q = q if centre is None else q - centre(q)
            found.append(-_slope(policy_loss(g.log_probs(y), q), weights))
        found = torch.stack(found)
        return ((found.mean(0) - truth).norm() / (found.var(0) / repeats).sum().sqrt()).item(), found

    plain, found = off(right)
    based, centred = off(right, lambda q: q.mean(0))
    wrong = {name: off(values)[0] for name, values in broken.items()}

    def ratio(others):
        return (others.var(0).sum() / found.var(0).sum()).item()

    source = "Yu et al. 2017, Eq. 7; by enumeration; 1 is expected"
    turned = off(right, lambda q: -q.mean(0))[1]
    return [Check("|mean policy gradient - exact gradient of E D| [standard errors]", plain, hi=3,
                  source=source, controls=wrong),
            Check("likewise with the batch's mean of Q at each place as a baseline", based, hi=3,
                  source=source,
                  controls={"a string's own mean of Q": off(right, lambda q: q.mean(1, keepdim=True))[0]}),
            Check("variance of the policy gradient, with that baseline / without", ratio(centred), hi=0.8,
                  source="chosen; 1 if it were of no use", controls={"of the wrong sign": ratio(turned)})]


def _slope(value, weights):
    return parameters_to_vector(torch.autograd.grad(value, weights))


# ------------------------------------------------------------------------------------------------------ bench

class Report(NamedTuple):
    """A language model against the oracle, nats for each token."""
    oracle: float                # NLL_oracle: mean -log o of strings of G
    test: float                  # NLL_test: mean -log G of held-out strings of the oracle
    reverse: float               # KL(G || o)
    forward: float               # KL(o || G)


def report(g, world, test, temperature=1.0, n=20_000):
    """Report of g at a temperature: n strings of its own, drawn alike for all; test (m, T) of the oracle."""
    set_seed(99)
    y = g.sample(n, temperature)
    p, o, of_test = g.log_prob(y, temperature), world.log_prob(y), g.log_prob(test, temperature)
    values = -o.mean(), -of_test.mean(), (p - o).mean(), (world.log_prob(test) - of_test).mean()
    return Report(*(value.item() / g.length for value in values))


def mean_report(games, world, test):
    """The mean Report of several language models."""
    return Report(*torch.tensor([report(g, world, test) for g in games]).mean(0).tolist())


def bench(seed=0, n=20_000, steps=200):
    """An oracle of 100 tokens and strings of 12; G is narrower than the oracle.

    With 1000 strings and a G as wide as the oracle, D learned them by heart and G's entropy wandered: in one
    run of two rewards shuffled over the batch lowered NLL_oracle more than those of D. With many strings and
    a G that cannot hold the oracle, D tells G's from new ones of the oracle, too. Large batches, and few ends
    for each string, are the best use of the time: they make less noise in the gradient. What is left of it
    moves G at random: one game in which a constant was the reward lowered NLL_oracle by .08. So each kind of
    game is played GAMES times, from the same G.
    """
    world = strings.oracle(seed=seed)
    set_seed(seed)
    train, held_out, test = world.sample(n), world.sample(1000), world.sample(10_000)
    mle, untrained = Language(world.vocabulary, world.length, hidden=8), Language(100, 12, hidden=8)
    mle.fit(train, steps=1000, seed=seed, batch=128, held_out=held_out)

    def play(game, rewards=None, lr=2e-3, first=300, baseline=True, k=2):
        set_seed(GAMES * seed + game)
        model = SeqGAN(copy.deepcopy(mle), Discriminator(world.vocabulary), copies=2, baseline=baseline, k=k,
                       lr=lr, lr_d=2e-3, batch=512)
        if rewards:
            model.values = rewards(model.values)
        return model.fit(train, steps=steps, first=first, seed=GAMES * seed + game)

    def blind_to_all(game, lr=2e-3):   # no baseline, which would leave nothing; D is there to no end
        return play(game, lambda _: lambda y: torch.full(y.shape, 0.5), lr, first=1, baseline=False, k=1)

    def shuffled(game):
        return play(game, lambda values: lambda y: values(y)[torch.randperm(len(y))])

    def played(kind):
        return mean_report([kind(game).language for game in range(GAMES)], world, test)

    model = play(0)
    rest = [play(game).language for game in range(1, GAMES)]
    of = {"MLE": report(mle, world, test), "SeqGAN": mean_report([model.language, *rest], world, test),
          f"MLE at {COLD}": report(mle, world, test, COLD), "untrained": report(untrained, world, test)}
    blind = {"rewards shuffled": played(shuffled), "constant reward": played(blind_to_all)}
    hasty = report(blind_to_all(0, 1e-2).language, world, test)
    start, end, cold = of["MLE"], of["SeqGAN"], of[f"MLE at {COLD}"]
    fall = {name: other.oracle - start.oracle for name, other in blind.items()}
    drawn = model.sample(len(test))
    with torch.no_grad():
        told, by_new = (metrics.accuracy(d(test), d(drawn))
                        for d in (model.discriminator.eval(), Discriminator(world.vocabulary).eval()))
    caccia = "Caccia et al. 2020: a lower temperature does what SeqGAN does, and more of it"
    return [
        Check("NLL_oracle after SeqGAN less before [nats/token]", end.oracle - start.oracle, hi=-0.05,
              source="beforehand", controls=fall),
        *(Check(f"NLL_oracle after {name} less before [nats/token]", lowered, lo=-0.03, source="beforehand",
                controls={"rewards of D": end.oracle - start.oracle}) for name, lowered in fall.items()),
        Check("NLL_test after SeqGAN less before [nats/token]", end.test - start.test, hi=0.05,
              source="beforehand", controls={f"MLE at {COLD}": cold.test - start.test,
                                             "constant reward, lr 1e-2": hasty.test - start.test}),
        Check("KL(G || oracle) after SeqGAN less before [nats/token]", end.reverse - start.reverse, hi=-0.01,
              source="chosen on seeds 0 to 2", controls={name: other.reverse - start.reverse
                                                         for name, other in blind.items()}),
        *(Check(f"{name}: {kl} [nats/token]", getattr(of[name], field), 0, 1.5,
                "to be known; wide, chosen on seeds 0 to 2", {"untrained": getattr(of["untrained"], field)})
          for name in list(of)[:3] for kl, field in (("KL(G || oracle)", "reverse"),
                                                     ("KL(oracle || G)", "forward"))),
        Check(f"NLL_oracle of MLE at {COLD} less SeqGAN's [nats/token]", cold.oracle - end.oracle, hi=-0.3,
              source=caccia, controls={"MLE at 1": start.oracle - end.oracle}),
        Check(f"KL(oracle || G) of MLE at {COLD} less SeqGAN's [nats/token]", cold.forward - end.forward,
              lo=0.05, source="chosen on seeds 0 to 2; what the low temperature pays",
              controls={"MLE at 1": start.forward - end.forward}),
        Check("accuracy of D on new strings of the oracle and of G", told, 0.55, 0.8,
              "chosen on seeds 0 to 2; 1/2 if G were the oracle or D blind",
              {"a D that has not learned": by_new})]
