"""Exercises of lesson F5: a sparse code, and a loss over prefixes.

Shapes: N pictures; D features; M units of the sparse code; C classes.
"""

import numpy as np
import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise

# --- topk_code --------------------------------------------------------------------------------


def topk_code(h, encoder, bias, pre_bias, k):
    """The code of a TopK sparse autoencoder: of each picture the k most excited units.

    h: (N, D) float32, features; encoder: (M, D), one row a unit; bias: (M,); pre_bias: (D,), which
    is taken from h first; k: whole number, 1 to M. The excitation of a unit is its row times
    (h - pre_bias), plus its bias. Of each picture the k largest excitations stay, and where one of
    them is below 0 it becomes 0; all others are 0. Returns (N, M).
    """
    excitation = (h - pre_bias) @ encoder.T + bias  # (N, M)
    largest, units = excitation.topk(k, dim=1)
    return torch.zeros_like(excitation).scatter(1, units, largest.relu())


def _topk_cases(generator: torch.Generator) -> dict[str, tuple]:
    def random(*shape):
        return torch.randn(*shape, generator=generator)

    def case(n, d, m, k, *, lift=0.0):
        return random(n, d), random(m, d), random(m) + lift, random(d), k

    return {
        "three of eight units": case(6, 4, 8, 3),
        "one unit": case(9, 5, 7, 1),
        "units that are hardly ever excited": case(8, 3, 6, 4, lift=-2.5),
        "units that are always excited": case(5, 3, 10, 2, lift=4.0),
        "all units": case(4, 6, 5, 5),
        "a single picture": case(1, 4, 9, 3),
    }


def _topk_by_lists(h, encoder, bias, pre_bias, k):
    rows = []
    for picture in h.double():
        excitation = [
            float(row @ (picture - pre_bias)) + float(b)
            for row, b in zip(encoder.double(), bias.double(), strict=True)
        ]
        order = sorted(range(len(excitation)), key=lambda j: -excitation[j])
        row = [0.0] * len(excitation)
        for j in order[:k]:
            row[j] = max(0.0, excitation[j])
        rows.append(row)
    return rows


def _topk_by_numpy(h, encoder, bias, pre_bias, k):
    excitation = (h.numpy() - pre_bias.numpy()) @ encoder.numpy().T + bias.numpy()
    code = np.zeros_like(excitation)
    units = np.argsort(-excitation, axis=1)[:, :k]
    kept = np.take_along_axis(excitation, units, axis=1)
    np.put_along_axis(code, units, np.maximum(kept, 0), axis=1)
    return code


def _topk_by_threshold(h, encoder, bias, pre_bias, k):
    """Keep what reaches the k-th largest."""
    excitation = F.linear(h - pre_bias, encoder, bias)
    smallest_kept = excitation.topk(k).values[:, -1:]
    return torch.where(excitation >= smallest_kept, excitation, 0).clamp(min=0)


def _topk_by_sorting(h, encoder, bias, pre_bias, k):
    """Negative ones first become 0, then the rank of each unit decides."""
    excitation = torch.einsum("nd,md->nm", h.double() - pre_bias, encoder.double()) + bias
    rank = excitation.argsort(dim=1, descending=True).argsort(dim=1)
    return excitation.relu() * (rank < k)


def _topk_by_kthvalue(h, encoder, bias, pre_bias, k):
    """The bias moved into the other: W (h - p) + b = W h + (b - W p)."""
    moved = bias - encoder @ pre_bias
    excitation = h @ encoder.T + moved
    limit = excitation.kthvalue(excitation.shape[1] - k + 1, dim=1, keepdim=True).values
    return excitation.masked_fill(excitation < limit, 0).relu()


def _excited(h, encoder, bias, pre_bias):
    return (h - pre_bias) @ encoder.T + bias


def _kept(excitation, order, k, *, values=None):
    """Keep the values at the k largest of `order`."""
    values = excitation if values is None else values
    units = order.topk(k, dim=1).indices
    return torch.zeros_like(excitation).scatter(1, units, values.gather(1, units))


def _topk_by_magnitude(h, encoder, bias, pre_bias, k):
    """The k largest by magnitude: units that are strongly below 0 take places."""
    excitation = _excited(h, encoder, bias, pre_bias)
    return _kept(excitation, excitation.abs(), k).relu()


def _topk_signed(h, encoder, bias, pre_bias, k):
    """The ReLU is missing: one of the k largest can be below 0."""
    excitation = _excited(h, encoder, bias, pre_bias)
    return _kept(excitation, excitation, k)


def _topk_over_pictures(h, encoder, bias, pre_bias, k):
    """The k most excited pictures of each unit stay, in place of k units of each picture."""
    excitation = _excited(h, encoder, bias, pre_bias).T
    return _kept(excitation, excitation, min(k, excitation.shape[1])).relu().T


def _topk_over_batch(h, encoder, bias, pre_bias, k):
    """The N times k largest of the whole batch, so that a picture can have more or fewer than k."""
    excitation = _excited(h, encoder, bias, pre_bias)
    flat = excitation.reshape(1, -1)
    return _kept(flat, flat, k * len(h)).relu().reshape(excitation.shape)


def _topk_relu_alone(h, encoder, bias, pre_bias, k):
    """All excitations above 0 stay, however many they are."""
    return _excited(h, encoder, bias, pre_bias).relu()


def _topk_smallest(h, encoder, bias, pre_bias, k):
    """The k smallest in place of the k largest."""
    excitation = _excited(h, encoder, bias, pre_bias)
    return _kept(excitation, -excitation, k).relu()


def _topk_values_alone(h, encoder, bias, pre_bias, k):
    """The k values in order, (N, k): which units they belong to is lost."""
    return _excited(h, encoder, bias, pre_bias).topk(k, dim=1).values.relu()


def _topk_ones(h, encoder, bias, pre_bias, k):
    """1 for the units that stay in place of their excitation."""
    return (topk_code(h, encoder, bias, pre_bias, k) > 0).float()


def _topk_softmax(h, encoder, bias, pre_bias, k):
    """A softmax over the k that stay in place of their excitations."""
    excitation = _excited(h, encoder, bias, pre_bias)
    kept = _kept(excitation, excitation, k, values=torch.ones_like(excitation)) > 0
    return excitation.masked_fill(~kept, -torch.inf).softmax(dim=1)


def _topk_without_pre_bias(h, encoder, bias, pre_bias, k):
    """The pre-bias is not taken from h."""
    return topk_code(h, encoder, bias, torch.zeros_like(pre_bias), k)


def _topk_pre_bias_added(h, encoder, bias, pre_bias, k):
    """The pre-bias is added to h. It is added after decoding, and subtracted here."""
    return topk_code(h, encoder, bias, -pre_bias, k)


def _topk_without_bias(h, encoder, bias, pre_bias, k):
    """The bias of the units is missing."""
    return topk_code(h, encoder, torch.zeros_like(bias), pre_bias, k)


def _topk_bias_afterwards(h, encoder, bias, pre_bias, k):
    """The bias is added to what stays, after the choice."""
    excitation = _excited(h, encoder, torch.zeros_like(bias), pre_bias)
    return _kept(excitation, excitation, k, values=excitation + bias).relu()


TOPK_CODE = Exercise(
    solution=topk_code,
    cases=_topk_cases,
    difficulty=1,
    minutes=5,
    hints=(
        "All excitations at once: (h - pre_bias) @ encoder.T + bias, of shape (N, M).",
        "topk(k, dim=1) gives the k largest values of each row and where they stand.",
        "Write them into a table of zeros: torch.zeros_like(excitation).scatter(1, where, values). "
        "A value below 0 becomes 0 on the way.",
    ),
    wrong={
        "by magnitude": _topk_by_magnitude,
        "no ReLU": _topk_signed,
        "over the pictures": _topk_over_pictures,
        "over the batch": _topk_over_batch,
        "ReLU alone": _topk_relu_alone,
        "the smallest": _topk_smallest,
        "values alone": _topk_values_alone,
        "ones": _topk_ones,
        "softmax": _topk_softmax,
        "no pre-bias": _topk_without_pre_bias,
        "pre-bias added": _topk_pre_bias_added,
        "no bias": _topk_without_bias,
        "bias afterwards": _topk_bias_afterwards,
    },
    alternatives=(
        _topk_by_lists,
        _topk_by_numpy,
        _topk_by_threshold,
        _topk_by_sorting,
        _topk_by_kthvalue,
    ),
)


# --- matryoshka_loss --------------------------------------------------------------------------


def matryoshka_loss(z, weight, bias, labels, lengths):
    """The mean cross-entropy over prefixes of z, with one classifier that all of them share.

    z: (N, D) float32; weight: (C, D) and bias: (C,), of a linear classifier; labels: (N,) int64;
    lengths: list of whole numbers from 1 to D. For a length m the classifier sees the first m
    entries of z and has the first m columns of its weight; the bias is the same for all. Returns a
    number: the mean over the lengths of the cross-entropy (a mean over the pictures).
    """
    losses = []
    for m in lengths:
        logits = z[:, :m] @ weight[:, :m].T + bias  # (N, C)
        losses.append(F.cross_entropy(logits, labels))
    return torch.stack(losses).mean()


def _matryoshka_cases(generator: torch.Generator) -> dict[str, tuple]:
    def case(n, d, classes, lengths):
        z = torch.randn(n, d, generator=generator)
        weight = torch.randn(classes, d, generator=generator)
        bias = torch.randn(classes, generator=generator)
        labels = torch.randint(classes, (n,), generator=generator)
        return z, weight, bias, labels, lengths

    return {
        "lengths that double": case(7, 8, 4, [1, 2, 4, 8]),
        "lengths without the full one": case(6, 9, 3, [2, 5]),
        "one length": case(8, 6, 5, [3]),
        "every length": case(5, 5, 3, [1, 2, 3, 4, 5]),
        "a single picture": case(1, 6, 4, [1, 3, 6]),
    }


def _matryoshka_by_loops(z, weight, bias, labels, lengths):
    total = 0
    for m in lengths:
        for i, label in enumerate(labels.tolist()):
            logits = torch.stack([(z[i, :m] * row[:m]).sum() for row in weight]) + bias
            total = total + torch.logsumexp(logits, dim=0) - logits[label]
    return total / (len(lengths) * len(labels))


def _matryoshka_by_masks(z, weight, bias, labels, lengths):
    """Entries behind the prefix become 0, all lengths at once."""
    place = torch.arange(z.shape[1])
    mask = (place < torch.tensor(lengths)[:, None]).to(z.dtype)  # (lengths, D)
    logits = (z * mask[:, None]) @ weight.T + bias
    return F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(lengths)))


def _matryoshka_by_running_sums(z, weight, bias, labels, lengths):
    """The logits of all prefixes are running sums over the entries."""
    sums = (z[:, None] * weight).cumsum(dim=2) + bias[:, None]  # (N, C, D)
    logits = sums[:, :, [m - 1 for m in lengths]]
    return F.cross_entropy(logits, labels[:, None].expand(-1, len(lengths)))


def _matryoshka_by_log_softmax(z, weight, bias, labels, lengths):
    """In float64, one length after the other."""
    z, weight, bias = z.double(), weight.double(), bias.double()
    mean = 0
    for m in lengths:
        log_p = F.linear(z[:, :m], weight[:, :m], bias).log_softmax(dim=1)
        mean = mean - log_p[torch.arange(len(labels)), labels].mean() / len(lengths)
    return mean


def _matryoshka_by_one_hot(z, weight, bias, labels, lengths):
    target = F.one_hot(labels, len(weight)).to(z.dtype)
    losses = []
    for m in lengths:
        first = z.narrow(1, 0, m)
        logits = torch.addmm(bias, first, weight.narrow(1, 0, m).T)
        losses.append(F.cross_entropy(logits, target))
    return sum(losses) / len(losses)


def _cross_entropy(z, weight, bias, labels):
    return F.cross_entropy(z @ weight.T + bias, labels)


def _matryoshka_full(z, weight, bias, labels, lengths):
    """Only the full length: the usual loss."""
    return _cross_entropy(z, weight, bias, labels)


def _matryoshka_suffixes(z, weight, bias, labels, lengths):
    """The last m entries in place of the first m."""
    losses = [_cross_entropy(z[:, -m:], weight[:, -m:], bias, labels) for m in lengths]
    return torch.stack(losses).mean()


def _matryoshka_first_columns_of_suffix(z, weight, bias, labels, lengths):
    """The first m entries meet the last m columns of the weight."""
    losses = [_cross_entropy(z[:, :m], weight[:, -m:], bias, labels) for m in lengths]
    return torch.stack(losses).mean()


def _matryoshka_summed_logits(z, weight, bias, labels, lengths):
    """The logits of the prefixes are added, and the cross-entropy is taken once."""
    logits = sum(z[:, :m] @ weight[:, :m].T + bias for m in lengths)
    return F.cross_entropy(logits, labels)


def _matryoshka_mean_logits(z, weight, bias, labels, lengths):
    """The cross-entropy of the mean logits in place of the mean of the cross-entropies."""
    logits = sum(z[:, :m] @ weight[:, :m].T + bias for m in lengths) / len(lengths)
    return F.cross_entropy(logits, labels)


def _matryoshka_sum(z, weight, bias, labels, lengths):
    """The sum over the lengths, as in the authors' code, in place of the mean."""
    return matryoshka_loss(z, weight, bias, labels, lengths) * len(lengths)


def _matryoshka_one_too_long(z, weight, bias, labels, lengths):
    """One entry too many: the first m + 1."""
    return matryoshka_loss(z, weight, bias, labels, [m + 1 for m in lengths])


def _matryoshka_one_too_short(z, weight, bias, labels, lengths):
    """One entry too few: the first m - 1."""
    return matryoshka_loss(z, weight, bias, labels, [m - 1 for m in lengths])


def _matryoshka_blocks(z, weight, bias, labels, lengths):
    """Blocks that do not overlap: from the last length to this one."""
    losses = []
    start = 0
    for m in lengths:
        losses.append(_cross_entropy(z[:, start:m], weight[:, start:m], bias, labels))
        start = m
    return torch.stack(losses).mean()


def _matryoshka_without_bias(z, weight, bias, labels, lengths):
    """The bias is missing."""
    return matryoshka_loss(z, weight, torch.zeros_like(bias), labels, lengths)


def _matryoshka_bias_in_full_only(z, weight, bias, labels, lengths):
    """The bias is added at the full length only."""
    losses = []
    for m in lengths:
        used = bias if m == z.shape[1] else torch.zeros_like(bias)
        losses.append(_cross_entropy(z[:, :m], weight[:, :m], used, labels))
    return torch.stack(losses).mean()


def _matryoshka_shortest_weighs_most(z, weight, bias, labels, lengths):
    """Each length is weighted with 1 / m."""
    total = 0
    for m in lengths:
        total = total + _cross_entropy(z[:, :m], weight[:, :m], bias, labels) / m
    return total / len(lengths)


def _matryoshka_rows(z, weight, bias, labels, lengths):
    """The first m pictures in place of the first m entries."""
    losses = [_cross_entropy(z[:m], weight, bias, labels[:m]) for m in lengths]
    return torch.stack(losses).mean()


MATRYOSHKA_LOSS = Exercise(
    solution=matryoshka_loss,
    cases=_matryoshka_cases,
    difficulty=2,
    minutes=6,
    gradient_of=(0, 1, 2),
    hints=(
        "For one length m: the logits are z[:, :m] times the first m columns of the weight, plus "
        "the bias.",
        "F.cross_entropy(logits, labels) is a mean over the pictures already.",
        "Collect one loss for each length in a list; torch.stack(losses).mean() keeps gradients.",
    ),
    wrong={
        "full length only": _matryoshka_full,
        "suffixes": _matryoshka_suffixes,
        "other columns": _matryoshka_first_columns_of_suffix,
        "summed logits": _matryoshka_summed_logits,
        "mean logits": _matryoshka_mean_logits,
        "sum": _matryoshka_sum,
        "one too long": _matryoshka_one_too_long,
        "one too short": _matryoshka_one_too_short,
        "blocks": _matryoshka_blocks,
        "no bias": _matryoshka_without_bias,
        "bias in full only": _matryoshka_bias_in_full_only,
        "weighted by 1 / m": _matryoshka_shortest_weighs_most,
        "pictures": _matryoshka_rows,
    },
    alternatives=(
        _matryoshka_by_loops,
        _matryoshka_by_masks,
        _matryoshka_by_running_sums,
        _matryoshka_by_log_softmax,
        _matryoshka_by_one_hot,
    ),
)

EXERCISES = [TOPK_CODE, MATRYOSHKA_LOSS]
