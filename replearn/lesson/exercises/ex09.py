"""Exercises of lesson 09: the InfoNCE bound, the critic matrix, mutual information from a SimCLR log."""

import math

import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise


def infonce_bound(scores):
    """The InfoNCE bound on mutual information (van den Oord et al. 2018, section 2.3): log N minus the loss.

    The loss is the mean over the rows of -log softmax at the partner; row i holds the scores of x_i with y_1 ... y_N,
    and its partner is y_i. scores: (N, N). Returns one number (nats), which may be negative, never above log N.
    """
    partner = torch.arange(len(scores))
    return math.log(len(scores)) - F.cross_entropy(scores, partner)


def _bound_cases(generator):
    def random(n, scale=1.0, lift=0.0):
        return scale * torch.randn(n, n, generator=generator) + lift * torch.eye(n)

    return {
        "random scores": (random(6),),
        "two pairs": (random(2, 2.0),),
        "partners that score high": (random(12, lift=4.0),),
        "partners that score low (the bound is negative)": (random(5, lift=-3.0),),
        "rows that are shifted, each by its own constant": (
            random(8) + 5 * torch.arange(8.0)[:, None],
        ),
        "scores of 200 and more (exp alone overflows)": (random(4, 150.0, 500.0),),
    }


def _bound_logsumexp(scores):
    n = len(scores)
    return (scores.diagonal() - scores.logsumexp(dim=1)).mean() + torch.log(torch.tensor(float(n)))


def _bound_loop(scores):
    n, total = len(scores), 0.0
    for i in range(n):  # log of: the partner's share over the share of a blind guess, 1 / N
        total = total + scores[i].log_softmax(0)[i] - math.log(1 / n)
    return total / n


BOUND = Exercise(
    solution=infonce_bound,
    cases=_bound_cases,
    difficulty=1,
    minutes=5,
    gradient_of=(0,),
    hints=(
        "The loss is cross-entropy: in row i the right answer is column i.",
        "F.cross_entropy(scores, torch.arange(N)) takes the softmax over each row and the mean over the rows.",
        "The bound is math.log(N) minus that loss; a lower loss is a higher bound.",
    ),
    wrong={
        "the loss itself": lambda s: F.cross_entropy(s, torch.arange(len(s))),
        "loss minus log N": lambda s: -infonce_bound(s),
        "softmax over the columns": lambda s: infonce_bound(s.T),
        "both directions averaged": lambda s: (infonce_bound(s) + infonce_bound(s.T)) / 2,
        "sum in place of mean": lambda s: (
            math.log(len(s)) - F.cross_entropy(s, torch.arange(len(s)), reduction="sum")
        ),
        "log(N - 1)": lambda s: infonce_bound(s) - math.log(len(s)) + math.log(len(s) - 1),
        "clipped at 0": lambda s: infonce_bound(s).clamp(min=0),
        "exp overflows": lambda s: (len(s) * s.exp().diagonal() / s.exp().sum(1)).log().mean(),
        "cut gradient": lambda s: infonce_bound(s.detach()),
    },
    alternatives=(_bound_logsumexp, _bound_loop),
)


def critic_matrix(x, y, rho):
    """The optimal critic of correlated Gaussians, log p(y_j | x_i) - log p(y_j), for every pair of a row and a column.

    Every coordinate of x and y is N(0, 1), and coordinate k of y is correlated with coordinate k of x only, by rho:
    given x it is N(rho x_k, 1 - rho^2). x: (N, d). y: (M, d). -1 < rho < 1. Returns (N, M) in nats: rows x, columns y.
    """
    v = 1 - rho**2
    error = y[None, :, :] - rho * x[:, None, :]  # (N, M, d)
    conditional = -(error**2) / (2 * v) - math.log(v) / 2  # log p(y | x), up to log(2 pi) / 2
    marginal = -(y**2) / 2  # log p(y), up to the same constant
    return (conditional - marginal).sum(dim=2)


def _critic_cases(generator):
    def points(n, m, d):
        return torch.randn(n, d, generator=generator), torch.randn(m, d, generator=generator)

    return {
        "as many x as y": (*points(5, 5, 3), 0.8),
        "three x, seven y": (*points(3, 7, 2), 0.6),
        "twenty dimensions": (*points(6, 4, 20), 0.9),
        "a negative correlation": (*points(4, 4, 2), -0.7),
        "independent variables (all scores are 0)": (*points(4, 5, 2), 0.0),
    }


def _critic_products(x, y, rho):
    v, d = 1 - rho**2, x.shape[1]
    squares = rho**2 * (x.square().sum(1)[:, None] + y.square().sum(1)[None, :])
    return (2 * rho * x @ y.T - squares) / (2 * v) - d / 2 * math.log(v)


def _critic_distributions(x, y, rho):
    given_x = torch.distributions.Normal(rho * x[:, None, :], math.sqrt(1 - rho**2))
    return (given_x.log_prob(y[None, :, :]) - torch.distributions.Normal(0.0, 1.0).log_prob(y)).sum(
        dim=2
    )


def _wrong_critic(v=lambda r: 1 - r * r, constant=True, marginal=True, reduce=torch.sum):
    def wrong(x, y, rho):
        error = y[None] - rho * x[:, None]
        score = (
            -error.square() / (2 * v(rho))
            - constant * math.log(v(rho)) / 2
            + marginal * y.square() / 2
        )
        return reduce(score, dim=2)

    return wrong


CRITIC = Exercise(
    solution=critic_matrix,
    cases=_critic_cases,
    difficulty=2,
    minutes=15,
    gradient_of=(0, 1),
    tolerance=1e-3,
    hints=(
        "Coordinates are independent of each other, so the logarithms of their densities add up over d.",
        "y[None, :, :] - rho * x[:, None, :] has shape (N, M, d): the error of predicting y_j from x_i.",
        "A normal log density is -error^2 / (2 v) - log(v) / 2 - log(2 pi) / 2; the variance v is 1 - rho^2 given x "
        "and 1 without it. The last term cancels, log(1 - rho^2) / 2 does not.",
    ),
    wrong={
        "rows and columns swapped": lambda x, y, rho: critic_matrix(x, y, rho).T,
        "y predicts x": lambda x, y, rho: (
            critic_matrix(y, x, rho) if len(x) == len(y) else critic_matrix(y, x, rho).T
        ),
        "without log p(y)": _wrong_critic(marginal=False),
        "without the variance's logarithm": _wrong_critic(constant=False),
        "1 - rho in place of 1 - rho^2": _wrong_critic(v=lambda r: 1 - abs(r)),
        "mean over the coordinates": _wrong_critic(reduce=torch.mean),
        "pairs only": lambda x, y, rho: critic_matrix(x, y, rho).diagonal(),
        "dot product": lambda x, y, rho: rho * x @ y.T,
    },
    alternatives=(_critic_products, _critic_distributions),
)


def mi_from_log(losses, batch_size, last):
    """Mutual information, in bits, that a SimCLR log stands for: log(2N - 1) minus the mean of its last losses.

    A view has 2N - 1 candidates, N the number of pictures in a batch. losses: list of floats, NT-Xent in nats, one a
    step. last: how many of the final steps to average (all of them if there are fewer). Returns a float, 0.0 where the
    estimate is negative: information is never less than nothing.
    """
    tail = losses[-last:]
    nats = math.log(2 * batch_size - 1) - sum(tail) / len(tail)
    return max(0.0, nats / math.log(2))


def _log_cases(generator):
    def log(n, start, end, noise):
        curve = end + (start - end) * torch.exp(-torch.linspace(0, 6, n))
        return (curve + noise * torch.randn(n, generator=generator)).tolist()

    return {
        "a log of 40 steps, batches of 128": (log(40, 5.5, 3.2, 0.15), 128, 10),
        "batches of 512": (log(60, 6.9, 4.1, 0.1), 512, 20),
        "a small batch of 8": (log(30, 2.7, 0.9, 0.1), 8, 5),
        "a collapsed run just above log(2N - 1)": (
            [math.log(63) + 0.01 * (1 + i % 3) for i in range(20)],
            32,
            10,
        ),
        "fewer steps than asked for": (log(4, 4.0, 3.0, 0.2), 64, 10),
    }


def _log_tensor(losses, batch_size, last):
    bits = math.log2(2 * batch_size - 1) - torch.tensor(losses, dtype=torch.float64)[
        -last:
    ].mean() / math.log(2)
    return bits.clamp(min=0)


def _log_numbers(losses, batch_size, last):
    tail = list(reversed(losses))[:last]
    bits = math.log2(batch_size * 2 - 1) - math.fsum(tail) / (len(tail) * math.log(2))
    return bits if bits > 0 else 0.0


LOG_2 = math.log(2)


def _wrong_log(
    candidates=lambda n: 2 * n - 1, unit=LOG_2, tail=lambda losses, last: losses[-last:], low=0.0
):
    def wrong(losses, batch_size, last):
        part = tail(losses, last)
        return max(low, (math.log(candidates(batch_size)) - sum(part) / len(part)) / unit)

    return wrong


LOG = Exercise(
    solution=mi_from_log,
    cases=_log_cases,
    difficulty=1,
    minutes=10,
    hints=(
        "How many candidates does a view have in NT-Xent? Two views of N pictures, without itself.",
        "A single step is noisy, and the smallest of many noisy steps is too low: average the last ones.",
        "Divide nats by log 2 for bits; max(0.0, ...) at the end.",
    ),
    wrong={
        "log N": _wrong_log(lambda n: n),
        "negatives only, log(2N - 2)": _wrong_log(lambda n: 2 * n - 2),
        "nats": _wrong_log(unit=1.0),
        "the smallest loss": _wrong_log(tail=lambda losses, last: [min(losses)]),
        "the last step": _wrong_log(tail=lambda losses, last: losses[-1:]),
        "the whole log": _wrong_log(tail=lambda losses, last: losses),
        "the first steps": _wrong_log(tail=lambda losses, last: losses[:last]),
        "not cut at 0": _wrong_log(low=-math.inf),
    },
    alternatives=(_log_tensor, _log_numbers),
)

EXERCISES = [BOUND, CRITIC, LOG]
