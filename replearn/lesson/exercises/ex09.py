"""Exercises of lesson 09: the InfoNCE bound, the critic matrix, information from a SimCLR log.

Shapes: N pairs or points; M points; d coordinates.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise

# --- infonce_bound ----------------------------------------------------------------------------


def infonce_bound(scores):
    """The InfoNCE bound on mutual information: log N minus the loss.

    The loss is the mean over the rows of -log softmax at the partner; row i holds the scores of
    x_i with y_1 ... y_N, and its partner is y_i (van den Oord et al. 2018, section 2.3).
    scores: (N, N), float. Returns one number (nats), a tensor of shape () that carries gradients:
    never above log N, and it may be negative.
    """
    partner = torch.arange(len(scores))
    return math.log(len(scores)) - F.cross_entropy(scores, partner)


def _bound_cases(generator: torch.Generator) -> dict[str, tuple]:
    def random(n, scale=1.0, lift=0.0):
        return scale * torch.randn(n, n, generator=generator) + lift * torch.eye(n)

    shift = 5 * torch.arange(8.0)[:, None]
    return {
        "random scores": (random(6),),
        "two pairs": (random(2, 2.0),),
        "partners that score high": (random(12, lift=4.0),),
        "partners that score low (the bound is negative)": (random(5, lift=-3.0),),
        "rows that are shifted, each by its own constant": (random(8) + shift,),
        "scores of 200 and more (exp alone overflows)": (random(4, 150.0, 500.0),),
    }


def _bound_by_logsumexp(scores):
    log_n = torch.log(torch.tensor(float(len(scores))))
    return (scores.diagonal() - scores.logsumexp(dim=1)).mean() + log_n


def _bound_by_loop(scores):
    n = len(scores)
    total = 0.0
    for i in range(n):
        # The logarithm of: the partner's share, over the share of a blind guess, 1 / N.
        total = total + scores[i].log_softmax(0)[i] - math.log(1 / n)
    return total / n


def _bound_by_nll(scores):
    rows = scores.double().log_softmax(dim=1)
    return math.log(scores.shape[0]) + rows[range(len(scores)), range(len(scores))].mean()


def _bound_by_one_hot(scores):
    partner = torch.eye(scores.shape[0], dtype=scores.dtype)
    shares = (partner * F.log_softmax(scores, dim=-1)).sum(dim=-1)
    return math.log(len(scores)) + shares.sum() / len(shares)


def _bound_by_list(scores):
    losses = [torch.logsumexp(row, 0) - row[i] for i, row in enumerate(scores)]
    return math.log(len(losses)) - torch.stack(losses).mean()


def _bound_shifted_in_place(scores):
    shifted = scores.clone()
    shifted -= scores.max(dim=1, keepdim=True).values.detach()
    shares = shifted.diagonal() - shifted.exp().sum(dim=1).log()
    return (shares + math.log(len(scores))).mean()


def _loss_itself(scores):
    """The loss itself, without log N."""
    return F.cross_entropy(scores, torch.arange(len(scores)))


def _loss_minus_log_n(scores):
    """The bound with its sign turned around: the loss minus log N."""
    return -infonce_bound(scores)


def _over_columns(scores):
    """Softmax over the columns in place of the rows: each y looks for its x."""
    return infonce_bound(scores.T)


def _both_directions(scores):
    """The mean over rows and columns, as in CLIP's loss, in place of the rows alone."""
    return (infonce_bound(scores) + infonce_bound(scores.T)) / 2


def _sum_over_rows(scores):
    """The loss summed over the rows, not averaged."""
    n = len(scores)
    return math.log(n) - F.cross_entropy(scores, torch.arange(n), reduction="sum")


def _log_n_minus_1(scores):
    """The logarithm of the number of negatives, N - 1, in place of that of all N cards."""
    n = len(scores)
    return infonce_bound(scores) - math.log(n) + math.log(n - 1)


def _clipped_at_0(scores):
    """The bound cut off at 0, though it may be negative."""
    return infonce_bound(scores).clamp(min=0)


def _bound_overflows(scores):
    """The exponentials taken as they stand: exp(200) is infinite in float32."""
    exponentials = scores.exp()
    return (len(scores) * exponentials.diagonal() / exponentials.sum(1)).log().mean()


def _bound_without_gradient(scores):
    """The right value, cut off from its input."""
    return infonce_bound(scores.detach())


def _bound_in_bits(scores):
    """The bound in bits in place of nats."""
    return infonce_bound(scores) / math.log(2)


def _negatives_only(scores):
    """The partner left out of the sum below the fraction line."""
    n = len(scores)
    others = scores.masked_fill(torch.eye(n, dtype=torch.bool), -math.inf)
    return math.log(n) + (scores.diagonal() - others.logsumexp(dim=1)).mean()


def _one_sum_for_all(scores):
    """One sum over the whole matrix in place of one for each row."""
    n = len(scores)
    return scores.diagonal().mean() - scores.flatten().logsumexp(0) + 2 * math.log(n)


def _log_of_the_mean_share(scores):
    """The logarithm of the mean share of the partners, not the mean of the logarithms."""
    shares = scores.log_softmax(dim=1).diagonal()
    return shares.logsumexp(0)


def _largest_is_the_partner(scores):
    """The largest score of each row taken for the partner's."""
    best = scores.log_softmax(dim=1).max(dim=1).values
    return math.log(len(scores)) + best.mean()


BOUND = Exercise(
    solution=infonce_bound,
    cases=_bound_cases,
    difficulty=1,
    minutes=5,
    gradient_of=(0,),
    hints=(
        "The loss is cross-entropy: in row i the right answer is column i.",
        "F.cross_entropy(scores, torch.arange(N)) takes the softmax over each row and the mean "
        "over the rows.",
        "The bound is math.log(N) minus that loss; a lower loss is a higher bound.",
    ),
    wrong={
        "the loss itself": _loss_itself,
        "loss minus log N": _loss_minus_log_n,
        "softmax over the columns": _over_columns,
        "both directions averaged": _both_directions,
        "sum in place of mean": _sum_over_rows,
        "log(N - 1)": _log_n_minus_1,
        "clipped at 0": _clipped_at_0,
        "exp overflows": _bound_overflows,
        "cut gradient": _bound_without_gradient,
        "bits": _bound_in_bits,
        "the partner is not among the cards": _negatives_only,
        "one sum for the whole matrix": _one_sum_for_all,
        "logarithm of the mean share": _log_of_the_mean_share,
        "the largest score is the partner": _largest_is_the_partner,
    },
    alternatives=(
        _bound_by_logsumexp,
        _bound_by_loop,
        _bound_by_nll,
        _bound_by_one_hot,
        _bound_by_list,
        _bound_shifted_in_place,
    ),
)


# --- critic_matrix ----------------------------------------------------------------------------


def critic_matrix(x, y, rho):
    """The optimal critic of correlated Gaussians, log p(y_j | x_i) - log p(y_j), for every pair.

    Every coordinate of x and y is N(0, 1), and coordinate k of y is correlated with coordinate k
    of x only, by rho: given x it is N(rho x_k, 1 - rho^2). x: (N, d) and y: (M, d), float.
    rho: float, -1 < rho < 1. Returns (N, M), float, in nats: rows x, columns y.
    """
    v = 1 - rho**2
    error = y[None, :, :] - rho * x[:, None, :]  # (N, M, d)
    conditional = -(error**2) / (2 * v) - math.log(v) / 2  # log p(y | x), up to log(2 pi) / 2
    marginal = -(y**2) / 2  # log p(y), up to the same constant
    return (conditional - marginal).sum(dim=2)


def _critic_cases(generator: torch.Generator) -> dict[str, tuple]:
    def points(n, m, d):
        x = torch.randn(n, d, generator=generator)
        y = torch.randn(m, d, generator=generator)
        return x, y

    return {
        "as many x as y": (*points(5, 5, 3), 0.8),
        "three x, seven y": (*points(3, 7, 2), 0.6),
        "twenty dimensions": (*points(6, 4, 20), 0.9),
        "a negative correlation": (*points(4, 4, 2), -0.7),
        "independent variables (all scores are 0)": (*points(4, 5, 2), 0.0),
    }


def _critic_by_products(x, y, rho):
    v = 1 - rho**2
    squares = x.square().sum(1)[:, None] + y.square().sum(1)[None, :]
    quadratic = (2 * rho * x @ y.T - rho**2 * squares) / (2 * v)
    return quadratic - x.shape[1] / 2 * math.log(v)


def _critic_by_distributions(x, y, rho):
    given_x = torch.distributions.Normal(rho * x[:, None, :], math.sqrt(1 - rho**2))
    alone = torch.distributions.Normal(0.0, 1.0)
    return (given_x.log_prob(y[None, :, :]) - alone.log_prob(y)).sum(dim=2)


def _critic_by_loops(x, y, rho):
    v = 1 - rho**2
    rows = []
    for x_i in x:
        row = []
        for y_j in y:
            total = 0.0
            for a, b in zip(x_i, y_j, strict=True):
                given = -((b - rho * a) ** 2) / (2 * v) - 0.5 * math.log(2 * math.pi * v)
                alone = -(b**2) / 2 - 0.5 * math.log(2 * math.pi)
                total = total + given - alone
            row.append(total)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def _critic_in_float64(x, y, rho):
    x, y = x.double(), y.double()
    v = 1 - rho**2
    squares = (y.unsqueeze(0) - rho * x.unsqueeze(1)).pow(2).sum(-1)  # (N, M)
    return -squares / (2 * v) - x.shape[1] * math.log(v) / 2 + y.pow(2).sum(-1) / 2


def _critic_column_by_column(x, y, rho):
    columns = []
    for y_j in y:
        error = y_j - rho * x  # (N, d)
        given = -error.square() / (2 - 2 * rho * rho) - math.log(1 - rho * rho) / 2
        columns.append((given + y_j.square() / 2).sum(1))
    return torch.stack(columns, dim=1)


def _critic_by_normal_vectors(x, y, rho):
    d = x.shape[1]
    normal = torch.distributions.MultivariateNormal
    given_x = normal(rho * x[:, None, :], (1 - rho**2) * torch.eye(d))
    return given_x.log_prob(y) - normal(torch.zeros(d), torch.eye(d)).log_prob(y)


def _critic_in_place(x, y, rho):
    scores = (rho * x) @ y.T
    scores -= rho**2 / 2 * (x**2).sum(1, keepdim=True)
    scores -= rho**2 / 2 * (y**2).sum(1)
    scores /= 1 - rho**2
    scores += -0.5 * x.size(1) * math.log(1 - rho**2)
    return scores


def _critic_terms(x, y, rho, v):
    """The three parts of the critic: error^2 / (2 v), log(v) / 2 and y^2 / 2."""
    error = y[None] - rho * x[:, None]
    return error.square() / (2 * v), math.log(v) / 2, y.square() / 2


def _critic_transposed(x, y, rho):
    """Rows are y and columns are x, in place of the other way round."""
    return critic_matrix(x, y, rho).T


def _y_predicts_x(x, y, rho):
    """log p(x | y) - log p(x) in place of log p(y | x) - log p(y)."""
    scores = critic_matrix(y, x, rho)
    if len(x) == len(y):
        return scores
    return scores.T


def _without_marginal(x, y, rho):
    """log p(y | x) alone, without log p(y)."""
    error, log_v, _ = _critic_terms(x, y, rho, 1 - rho * rho)
    return (-error - log_v).sum(dim=2)


def _without_log_variance(x, y, rho):
    """The term log(1 - rho^2) / 2 of the normal density left out."""
    error, _, marginal = _critic_terms(x, y, rho, 1 - rho * rho)
    return (-error + marginal).sum(dim=2)


def _one_minus_rho(x, y, rho):
    """1 - |rho| for the variance of y given x, in place of 1 - rho^2."""
    error, log_v, marginal = _critic_terms(x, y, rho, 1 - abs(rho))
    return (-error - log_v + marginal).sum(dim=2)


def _coordinates_averaged(x, y, rho):
    """The mean over the coordinates in place of their sum."""
    error, log_v, marginal = _critic_terms(x, y, rho, 1 - rho * rho)
    return (-error - log_v + marginal).mean(dim=2)


def _pairs_only(x, y, rho):
    """Only the pairs x_i with y_i, not every x with every y."""
    return critic_matrix(x, y, rho).diagonal()


def _dot_product(x, y, rho):
    """Only the product of x and y, without the rest of the densities."""
    return rho * x @ y.T


def _log_density_of_y_added(x, y, rho):
    """log p(y | x) plus log p(y) in place of minus."""
    error, log_v, marginal = _critic_terms(x, y, rho, 1 - rho * rho)
    return (-error - log_v - marginal).sum(dim=2)


def _deviation_for_variance(x, y, rho):
    """The standard deviation where the variance belongs."""
    error, log_v, marginal = _critic_terms(x, y, rho, math.sqrt(1 - rho * rho))
    return (-error - log_v + marginal).sum(dim=2)


def _log_variance_not_halved(x, y, rho):
    """log(1 - rho^2) in place of half of it."""
    error, log_v, marginal = _critic_terms(x, y, rho, 1 - rho * rho)
    return (-error - 2 * log_v + marginal).sum(dim=2)


def _mean_without_rho(x, y, rho):
    """x in place of rho x for the mean of y given x."""
    v = 1 - rho * rho
    error = (y[None] - x[:, None]).square() / (2 * v)
    return (-error - math.log(v) / 2 + y.square() / 2).sum(dim=2)


def _one_log_variance_for_all(x, y, rho):
    """log(1 - rho^2) / 2 counted once in place of once a coordinate."""
    error, log_v, marginal = _critic_terms(x, y, rho, 1 - rho * rho)
    return (-error + marginal).sum(dim=2) - log_v


CRITIC = Exercise(
    solution=critic_matrix,
    cases=_critic_cases,
    difficulty=2,
    minutes=15,
    gradient_of=(0, 1),
    tolerance=1e-3,
    hints=(
        "Coordinates are independent of each other, so the logarithms of their densities add up "
        "over d.",
        "y[None, :, :] - rho * x[:, None, :] has shape (N, M, d): the error of predicting y_j from "
        "x_i.",
        "A normal log density is -error^2 / (2 v) - log(v) / 2 - log(2 pi) / 2; the variance v is "
        "1 - rho^2 given x and 1 without it. The last term cancels, log(1 - rho^2) / 2 does not.",
    ),
    wrong={
        "rows and columns swapped": _critic_transposed,
        "y predicts x": _y_predicts_x,
        "without log p(y)": _without_marginal,
        "without the variance's logarithm": _without_log_variance,
        "1 - rho in place of 1 - rho^2": _one_minus_rho,
        "mean over the coordinates": _coordinates_averaged,
        "pairs only": _pairs_only,
        "dot product": _dot_product,
        "plus log p(y)": _log_density_of_y_added,
        "standard deviation for variance": _deviation_for_variance,
        "log variance not halved": _log_variance_not_halved,
        "mean without rho": _mean_without_rho,
        "log variance counted once": _one_log_variance_for_all,
    },
    alternatives=(
        _critic_by_products,
        _critic_by_distributions,
        _critic_by_loops,
        _critic_in_float64,
        _critic_column_by_column,
        _critic_by_normal_vectors,
        _critic_in_place,
    ),
)


# --- mi_from_log ------------------------------------------------------------------------------


def mi_from_log(losses, batch_size, last):
    """Mutual information, in bits, that a SimCLR log stands for: log(2N - 1) minus the loss.

    The loss is the mean of the last ones. A view has 2N - 1 candidates, N the number of pictures
    in a batch. losses: list of floats, NT-Xent in nats, one a step. last: how many of the final
    steps to average (all of them if there are fewer). Returns a float, 0.0 where the estimate is
    negative: information is never less than nothing.
    """
    tail = losses[-last:]
    nats = math.log(2 * batch_size - 1) - sum(tail) / len(tail)
    return max(0.0, nats / math.log(2))


def _log_cases(generator: torch.Generator) -> dict[str, tuple]:
    def log(n, start, end, noise):
        curve = end + (start - end) * torch.exp(-torch.linspace(0, 6, n))
        return (curve + noise * torch.randn(n, generator=generator)).tolist()

    collapsed = [math.log(63) + 0.01 * (1 + i % 3) for i in range(20)]
    # Two steps in five are above the ceiling, and the mean is below it.
    around = [math.log(31) - 0.8 + 0.3 * (i % 5) for i in range(25)]
    around = [loss + 0.02 * torch.rand((), generator=generator).item() for loss in around]
    return {
        "a log of 40 steps, batches of 128": (log(40, 5.5, 3.2, 0.15), 128, 10),
        "batches of 512": (log(60, 6.9, 4.1, 0.1), 512, 20),
        "a small batch of 8": (log(30, 2.7, 0.9, 0.1), 8, 5),
        "a collapsed run just above log(2N - 1)": (collapsed, 32, 10),
        "a noisy run, some steps above log(2N - 1)": (around, 16, 15),
        "fewer steps than asked for": (log(4, 4.0, 3.0, 0.2), 64, 10),
    }


def _log_by_tensor(losses, batch_size, last):
    loss = torch.tensor(losses, dtype=torch.float64)[-last:].mean()
    bits = math.log2(2 * batch_size - 1) - loss / math.log(2)
    return bits.clamp(min=0)


def _log_by_numbers(losses, batch_size, last):
    tail = list(reversed(losses))[:last]
    bits = math.log2(batch_size * 2 - 1) - math.fsum(tail) / (len(tail) * math.log(2))
    if bits > 0:
        return bits
    return 0.0


def _log_by_numpy(losses, batch_size, last):
    bits = (np.log(2 * batch_size - 1) - np.mean(losses[-last:])) / np.log(2)
    return np.maximum(bits, 0)


def _log_by_step(losses, batch_size, last):
    steps = losses[max(0, len(losses) - last) :]
    bits = [math.log2(2 * batch_size - 1) - loss / math.log(2) for loss in steps]
    return max(sum(bits) / len(bits), 0)


def _log_by_loop(losses, batch_size, last):
    total, count = 0.0, 0
    for i in range(len(losses)):
        if i >= len(losses) - last:
            total += losses[i]
            count += 1
    nats = math.log(batch_size + batch_size - 1) - total / count
    return nats * math.log2(math.e) if nats > 0 else 0.0


def _bits(losses, candidates):
    """log(candidates) minus the mean loss, in bits, which may be negative."""
    return (math.log(candidates) - sum(losses) / len(losses)) / math.log(2)


def _log_n(losses, batch_size, last):
    """log N in place of log(2N - 1): N candidates for a view."""
    return max(0.0, _bits(losses[-last:], batch_size))


def _log_negatives(losses, batch_size, last):
    """log(2N - 2) in place of log(2N - 1): the partner is not counted."""
    return max(0.0, _bits(losses[-last:], 2 * batch_size - 2))


def _in_nats(losses, batch_size, last):
    """The estimate in nats in place of bits."""
    tail = losses[-last:]
    return max(0.0, math.log(2 * batch_size - 1) - sum(tail) / len(tail))


def _smallest_loss(losses, batch_size, last):
    """The smallest loss of the log in place of the mean of the last ones."""
    return max(0.0, _bits([min(losses)], 2 * batch_size - 1))


def _last_step(losses, batch_size, last):
    """The last step alone in place of the mean of the last ones."""
    return max(0.0, _bits(losses[-1:], 2 * batch_size - 1))


def _whole_log(losses, batch_size, last):
    """The mean over the whole log in place of its last steps."""
    return max(0.0, _bits(losses, 2 * batch_size - 1))


def _first_steps(losses, batch_size, last):
    """The first steps in place of the last."""
    return max(0.0, _bits(losses[:last], 2 * batch_size - 1))


def _not_cut_at_0(losses, batch_size, last):
    """The estimate left negative where the loss is above log(2N - 1)."""
    return _bits(losses[-last:], 2 * batch_size - 1)


def _each_step_cut_at_0(losses, batch_size, last):
    """Each step cut off at 0 and then averaged, in place of the average cut off at 0."""
    bits = [max(0.0, _bits([loss], 2 * batch_size - 1)) for loss in losses[-last:]]
    return sum(bits) / len(bits)


def _nats_minus_bits(losses, batch_size, last):
    """log2(2N - 1) in bits minus a loss in nats."""
    tail = losses[-last:]
    return max(0.0, math.log2(2 * batch_size - 1) - sum(tail) / len(tail))


def _all_views(losses, batch_size, last):
    """log(2N) in place of log(2N - 1): a view counted among its own candidates."""
    return max(0.0, _bits(losses[-last:], 2 * batch_size))


def _divided_by_last(losses, batch_size, last):
    """The sum divided by `last` although the log may be shorter."""
    mean = sum(losses[-last:]) / last
    return max(0.0, (math.log(2 * batch_size - 1) - mean) / math.log(2))


def _size_of_the_estimate(losses, batch_size, last):
    """The sign dropped in place of a negative estimate cut off at 0."""
    return abs(_bits(losses[-last:], 2 * batch_size - 1))


LOG = Exercise(
    solution=mi_from_log,
    cases=_log_cases,
    difficulty=1,
    minutes=10,
    hints=(
        "How many candidates does a view have in NT-Xent? Two views of N pictures, without itself.",
        "A single step is noisy, and the smallest of many noisy steps is too low: average the last "
        "ones.",
        "Divide nats by log 2 for bits; max(0.0, ...) at the end.",
    ),
    wrong={
        "log N": _log_n,
        "negatives only, log(2N - 2)": _log_negatives,
        "nats": _in_nats,
        "the smallest loss": _smallest_loss,
        "the last step": _last_step,
        "the whole log": _whole_log,
        "the first steps": _first_steps,
        "not cut at 0": _not_cut_at_0,
        "each step cut at 0": _each_step_cut_at_0,
        "bits minus nats": _nats_minus_bits,
        "log 2N": _all_views,
        "divided by last": _divided_by_last,
        "absolute value": _size_of_the_estimate,
    },
    alternatives=(
        _log_by_tensor,
        _log_by_numbers,
        _log_by_numpy,
        _log_by_step,
        _log_by_loop,
    ),
)

EXERCISES = [BOUND, CRITIC, LOG]
