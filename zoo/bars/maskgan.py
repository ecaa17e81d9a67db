"""What MaskGAN learns of a source of which every posterior is known.

Equations are those of zoo/maskgan.py; the truth, of datasets.MarkovSource.
"""
import copy
from typing import NamedTuple

import torch
from torch import nn

from runs.files import set_seed
from zoo import datasets, maskgan
from zoo.bars.maskexact import exact
from zoo.core import Check

__all__ = ["bench", "exact"]

V, T, N_TRAIN, N_TEST = 20, 20, 100_000, 1000
HOLE = torch.zeros(T, dtype=torch.bool)
HOLE[5:15] = True                # ten tokens, of which only the two beside them tell anything
ONWARDS = torch.arange(T) >= 5   # what is hidden from those that read from the left alone


class Truth(NamedTuple):
    """A source, strings of it, and what is known of the holes of the test strings."""
    source: datasets.MarkovSource
    train: torch.Tensor          # (N_TRAIN, T)
    test: torch.Tensor           # (N_TEST, T)
    steps: torch.Tensor          # the posterior, (N_TEST, T, V, V)


class Fills(NamedTuple):
    """What fills of the test strings are worth; nats and means over the fills."""
    kl: float                    # KL(G || posterior) of a fill of ten tokens
    log_p: float                 # log posterior of each missing token: the source's log p and a constant
    entropy: float               # of each missing token, given what was drawn before
    unique: float                # share of different ones among the 4-grams of the holes


def holes(n):
    return HOLE.expand(n, T)


def make_truth(seed):
    """A source of 20 tokens, rows from Dirichlet(.1), and its strings."""
    source, generator = datasets.markov_source(seed, V, T, 0.1), torch.Generator().manual_seed(seed)
    train, test = source.sample(N_TRAIN, generator), source.sample(N_TEST, generator)
    return Truth(source, train, test, source.posterior(test, holes(N_TEST)))


def nll(log_p, x):
    """-log p of the missing tokens of x (n, T), mean over strings and places, from log_p (n, T, V): nats."""
    return -log_p.gather(2, x.unsqueeze(2))[:, HOLE].mean().item()


def different(x):
    """Share of different ones among the 4-grams within the holes of strings (n, T)."""
    grams = x[:, HOLE].unfold(1, 4, 1).flatten(0, 1)
    return len(grams.unique(dim=0)) / len(grams)


def judge_fills(truth, x, log_g):
    """What filled test strings x (n, T) are worth, drawn from log_g (n, T, V), G's -> Fills.

    KL is the sum over places of that from G to the posterior, both given what G drew before: unbiased for the
    KL of whole fills, and exact at each place.
    """
    log_g, log_p = log_g.double()[:, HOLE], datasets.conditionals(truth.steps, x)
    return Fills((log_g.exp() * (log_g - log_p[:, HOLE])).sum((1, 2)).mean().item(), -nll(log_p, x),
                 torch.special.entr(log_g.exp()).sum(2).mean().item(), different(x))


@torch.no_grad()
def fills_of(truth, generator, temperature=1.0, hidden=HOLE, repeats=8):
    """Fills of the test strings, mean over `repeats`; hidden (T,): what the generator is told is missing."""
    missing, drawn = hidden.expand(N_TEST, T), []
    for _ in range(repeats):
        x = torch.where(HOLE, generator.fill(truth.test, missing, temperature), truth.test)
        drawn.append(judge_fills(truth, x, (generator(x, missing) / temperature).log_softmax(2)))
    return Fills(*torch.tensor(drawn).mean(0).tolist())


def auc(real, fake):
    """How often a logit of real (n,) is above one of fake (m,): 1/2 if they tell nothing."""
    below = torch.searchsorted(fake.sort().values, real.contiguous())
    return below.double().mean().item() / len(fake)


@torch.no_grad()
def told(model, x, drawn):
    """AUC of D on the missing tokens, of real strings x against filled ones (n, T)."""
    missing = holes(len(x))
    return auc(*(model.judge(strings, missing)[missing] for strings in (x, drawn)))


@torch.no_grad()
def evidence(truth, model, x):
    """log of posterior over G of what the best D has read, at each missing token of strings (n, T): flat."""
    log_p, log_g = (table.gather(2, x.unsqueeze(2)).squeeze(2)[:, HOLE] for table in (
        datasets.conditionals(truth.steps, x), model.generator(x, holes(len(x))).log_softmax(2)))
    return (log_p - log_g).cumsum(1).flatten()


@torch.no_grad()
def explained(model, x, read=None):
    """Share of the variance of returns of filled strings x (n, T) that the critic explains, place by place.

    Place by place, since how a return shrinks towards the end of a hole needs no critic to tell.
    read  the strings that the critic reads; None: x, the right ones
    """
    missing = holes(len(x))
    back, values = model.returns(x, missing), model.values(x if read is None else read, missing)
    return (1 - (back - values)[:, HOLE].var(0).sum() / back[:, HOLE].var(0).sum()).item()


def gradient_variance(model, x, critics, repeats=50):
    """Variance of the policy gradient for each critic (filled strings, missing -> values), the same weights.

    Summed over all weights; x (n, T) are the strings of the batch, filled anew each time.
    """
    missing, weights = holes(len(x)), [*model.generator.parameters()]
    slopes = [[] for _ in critics]
    for _ in range(repeats):
        drawn = model.generator.fill(x, missing)
        with torch.no_grad():
            back = model.returns(drawn, missing)
        log_p = model.generator.log_probs(drawn, missing)
        for kept, critic in zip(slopes, critics, strict=True):
            advantages = maskgan.advantages(back, critic(drawn, missing), model.clip)
            grads = torch.autograd.grad(maskgan.policy_loss(log_p, advantages, missing), weights,
                                        retain_graph=True)
            kept.append(nn.utils.parameters_to_vector(grads))
    return [torch.stack(kept).var(0).sum().item() for kept in slopes]


def bench(seed=0, steps=2600, left_steps=500, warm=1200, rounds=250):
    """MaskMLE against Bayes, D and critic before the game, and MaskGAN against MaskMLE."""
    truth = make_truth(seed)
    set_seed(seed)
    model, left = (maskgan.MaskGAN(V, T, read) for read in (holes, lambda n: ONWARDS.expand(n, T)))
    model.imitate(truth.train, steps=steps)
    left.imitate(truth.train, steps=left_steps)
    checks = _likelihood(truth, model.generator, left.generator) + _players(truth, model, warm)
    mle, cold, again = (fills_of(truth, model.generator, temperature) for temperature in (1.0, 0.8, 1.0))
    of_left = fills_of(truth, left.generator, hidden=ONWARDS)
    model.play(truth.train, steps=rounds)
    return checks + _fills(truth, fills_of(truth, model.generator), mle, cold, again, of_left)


@torch.no_grad()
def _likelihood(truth, filler, left):
    """Teacher-forced: -log G of the true tokens given the true ones before, less what is possible."""
    x = truth.test
    bayes = nll(datasets.conditionals(truth.steps, x), x)
    from_left = nll(datasets.conditionals(truth.source.posterior(x, ONWARDS.expand(N_TEST, T)), x), x)
    mle, by_left = (nll(net(x, hidden.expand(N_TEST, T)).log_softmax(2), x)
                    for net, hidden in ((filler, HOLE), (left, ONWARDS)))
    unigram = (torch.bincount(truth.train.flatten()) / truth.train.numel()).log().expand(N_TEST, T, V)
    return [
        Check("MaskMLE: NLL of a missing token less that of Bayes [nats]", mle - bayes, -0.01, 0.05,
              f"beforehand; Bayes {bayes:.3f}, by the exact posterior", {
                  "left-only decoder": by_left - bayes, "Bayes from the left": from_left - bayes,
                  "unigrams": nll(unigram, x) - bayes}),
        Check("left-only decoder: NLL less that of Bayes from the left [nats]", by_left - from_left, -0.01,
              0.05, "it is trained, and reads no more", {"MaskMLE, which reads both sides": mle - from_left})]


def _players(truth, model, warm):
    """D and critic before the game: what they know, and what the critic does to the gradient."""
    untrained, early = maskgan.MaskGAN(V, T, holes), copy.deepcopy(model)
    early.prepare(truth.train, steps=warm // 10)
    model.prepare(truth.train, steps=warm)
    drawn, ideal = (who.fill(truth.test, holes(N_TEST)) for who in (model.generator, truth.source))
    explains = explained(model, drawn)
    means = model.returns(drawn, holes(N_TEST)).mean(0)
    none, critic, of_untrained, of_means = gradient_variance(model, truth.test[:model.batch], (
        lambda x, missing: 0.0, model.values, untrained.values, lambda x, missing: means))
    elsewhere = explained(model, drawn, drawn.roll(1, 0))
    best = auc(*(evidence(truth, model, x) for x in (truth.test, drawn)))

    def share(model, fills):
        return (told(model, truth.test, fills) - 0.5) / (best - 0.5)

    return [
        Check("D before the game: its AUC on missing tokens above 1/2, over that of the best D",
              share(model, drawn), 0.4,
              source=f"chosen on seeds 0 to 2: an AUC of .6 was proposed, but the best D, from the exact "
              f"posterior and G, has {best:.3f} (D {told(model, truth.test, drawn):.3f})", controls={
                  "fills from the posterior": share(model, ideal),
                  "after a tenth of its steps": share(early, drawn)}),
        Check("critic: share of the variance of returns that it explains, within places", explains, 0.2,
              source="beforehand", controls={"values of other strings": elsewhere}),
        Check("variance of the policy gradient, with the critic over without", critic / none, hi=1 / 3,
              source=f"beforehand; the mean return of each place instead of a critic: {of_means / none:.3f}",
              controls={"untrained critic": of_untrained / none})]


def _fills(truth, game, mle, cold, again, of_left):
    """What the game did to the fills, beside what a lower temperature does."""
    data, source = different(truth.test), "proposed before it was run"
    other = {"left-only decoder": of_left.kl - mle.kl}
    return [
        Check("MaskGAN: KL of a fill to the posterior less MaskMLE's [nats]", game.kl - mle.kl, hi=0.02,
              source=source, controls=other),
        Check("MaskMLE at temperature .8: KL of a fill less MaskMLE's [nats]", cold.kl - mle.kl, hi=0.02,
              source=f"as MaskGAN; MaskMLE itself {mle.kl:.2f}", controls=other),
        Check("MaskGAN: log p of a drawn token less MaskMLE's [nats]", game.log_p - mle.log_p, 0.03,
              source=source, controls={"MaskMLE again": again.log_p - mle.log_p}),
        Check("MaskMLE at temperature .8: log p of a token less MaskMLE's [nats]", cold.log_p - mle.log_p,
              0.03, source=f"as MaskGAN; MaskMLE itself {mle.log_p:.2f}, fills from the posterior "
              f"{-datasets.fill_entropy(truth.steps).mean() / HOLE.sum():.2f}",
              controls={"MaskMLE again": again.log_p - mle.log_p}),
        Check("MaskGAN: entropy of a drawn token less MaskMLE's [nats]", game.entropy - mle.entropy, -0.15,
              source=source, controls={"MaskMLE at temperature .8": cold.entropy - mle.entropy}),
        Check("MaskGAN: different 4-grams, over those of the data", game.unique / data, 0.9, source=source,
              controls={"MaskMLE at temperature .8": cold.unique / data})]
