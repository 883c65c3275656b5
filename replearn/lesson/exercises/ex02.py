"""Exercises of lesson 02: a probe's loss and gradient, an evaluation without leakage, selectivity."""

import numpy as np
import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise


def probe_loss_and_gradient(w, b, x, y, l2):
    """Loss of the probe softmax(x w + b) and its gradient by hand: mean cross-entropy + l2/2 |w|^2, b not penalized.

    w: (d, C). b: (C,). x: (N, d). y: (N,) labels 0..C-1. Returns (loss, gradient for w (d, C), gradient for b (C,)).
    """
    log_p = F.log_softmax(x @ w + b, dim=1)  # (N, C)
    loss = -log_p[torch.arange(len(y)), y].mean() + l2 / 2 * (w**2).sum()
    error = (log_p.exp() - F.one_hot(y, len(b))) / len(y)  # (N, C): probability minus truth
    return loss, x.T @ error + l2 * w, error.sum(dim=0)


def _probe_cases(generator):
    def problem(n, d, classes, l2, scale=1.0):
        w, b, x = (
            torch.randn(*size, generator=generator) for size in ((d, classes), (classes,), (n, d))
        )
        return scale * w, b, x, torch.randint(classes, (n,), generator=generator), l2

    return {
        "a random problem": problem(12, 4, 3, 0.1),
        "a strong penalty": problem(7, 3, 4, 2.0),
        "a single picture": problem(1, 6, 5, 0.01),
        "scores of several hundred (exp alone overflows)": problem(10, 4, 3, 0.1, scale=300.0),
    }


def _probe_autograd(w, b, x, y, l2):
    w, b = w.clone().requires_grad_(), b.clone().requires_grad_()
    loss = F.cross_entropy(x @ w + b, y) + 0.5 * l2 * w.square().sum()
    return [loss.detach(), *torch.autograd.grad(loss, (w, b))]


def _probe_formula(w, b, x, y, l2):
    scores, truth = x @ w + b, torch.eye(len(b))[y]
    loss = (scores.logsumexp(1) - (scores * truth).sum(1)).mean().item() + 0.5 * l2 * w.pow(
        2
    ).sum().item()
    error = scores.softmax(1) - truth
    return [loss, torch.einsum("nd,nc->dc", x, error).div(len(x)).add(w, alpha=l2), error.mean(0)]


def _probe_overflow(w, b, x, y, l2):
    p = (x @ w + b).exp() / (x @ w + b).exp().sum(dim=1, keepdim=True)
    error = (p - F.one_hot(y, len(b))) / len(y)
    return (
        -p[torch.arange(len(y)), y].log().mean() + l2 / 2 * w.square().sum(),
        x.T @ error + l2 * w,
        error.sum(0),
    )


def _changed(change):  # change(loss, grad_w, grad_b, w, b, l2) -> three values
    return lambda w, b, x, y, l2: change(*probe_loss_and_gradient(w, b, x, y, l2), w, b, l2)


PROBE = Exercise(
    solution=probe_loss_and_gradient,
    cases=_probe_cases,
    difficulty=2,
    minutes=15,
    tolerance=1e-3,
    hints=(
        "torch.log_softmax(x @ w + b, dim=1) is (N, C); pick column y in each row, take the mean, change the sign.",
        "The gradient for the scores is (probability - truth) / N, and F.one_hot(y, C) gives the truth as (N, C).",
        "Chain rule: for w multiply by x.T and add l2 * w; for b sum over the pictures. b has no penalty.",
    ),
    wrong={
        "sum in place of mean": lambda w, b, x, y, l2: [
            len(x) * v for v in probe_loss_and_gradient(w, b, x, y, l2)
        ],
        "gradient without the penalty": _changed(
            lambda loss, gw, gb, w, b, l2: (loss, gw - l2 * w, gb)
        ),
        "penalty not halved": _changed(
            lambda loss, gw, gb, w, b, l2: (loss + l2 / 2 * w.square().sum(), gw, gb)
        ),
        "penalty on b": _changed(
            lambda loss, gw, gb, w, b, l2: (loss + l2 / 2 * b.square().sum(), gw, gb + l2 * b)
        ),
        "transposed": _changed(lambda loss, gw, gb, *_: (loss, gw.T, gb)),
        "exp overflows": _probe_overflow,
    },
    alternatives=(_probe_autograd, _probe_formula),
)


def fix_leak(x_train, x_test):
    """Standardize both sets without telling the probe anything about the test set.

    Each column (feature) is shifted and scaled by the mean and the standard deviation that it has in x_train. A column
    that is constant in x_train is only shifted. x_train: (N, d). x_test: (M, d). Returns the two new sets.
    """
    mean, std = x_train.mean(dim=0), x_train.std(dim=0, unbiased=False)  # (d,)
    std = torch.where(std > 0, std, 1.0)  # a constant column: divide by 1, not by 0
    return (x_train - mean) / std, (x_test - mean) / std


def _leak_cases(generator):
    def sets(shift=0.0):
        scale, center = (torch.rand(2, 4, generator=generator) * 5 + 0.5).unbind()
        train, test = (torch.randn(n, 4, generator=generator) * scale + center for n in (256, 64))
        return train, test * 1.5 + shift

    constant, other = sets(1.0)
    constant[:, 2], other[:, 2] = 2.0, 3.0
    small = torch.tensor([1.0, 1e-3, 1.0, 1e-3])
    return {
        "sets that differ in spread": sets(),
        "a test set that is shifted": sets(3.0),
        "columns of small numbers": tuple(x * small for x in sets()),
        "a column that is constant in x_train": (constant, other),
        "a test set of one picture": (constant[:, :2], other[:1, :2]),
    }


def _leak_numpy(x_train, x_test):
    center, scale = x_train.numpy().mean(0), x_train.numpy().std(0)
    return tuple((x.numpy() - center) / np.where(scale > 0, scale, 1.0) for x in (x_train, x_test))


def _own(x, dim=0):
    std = x.std(dim, unbiased=False, keepdim=True)
    return (x - x.mean(dim, keepdim=True)) / torch.where(std > 0, std, 1.0)


LEAK = Exercise(
    solution=fix_leak,
    cases=_leak_cases,
    difficulty=1,
    minutes=5,
    tolerance=0.01,
    hints=(
        "Whatever is computed from data is training. So mean and standard deviation come from x_train alone.",
        "mean(dim=0) runs over the pictures and gives one number a column. The same numbers transform both sets.",
        "A constant column has standard deviation 0. torch.where(std > 0, std, 1.0) leaves it shifted only.",
    ),
    wrong={
        "statistics of both sets": lambda a, b: _own(torch.cat([a, b])).split([len(a), len(b)]),
        "each set its own statistics": lambda a, b: (_own(a), _own(b)),
        "rows in place of columns": lambda a, b: (_own(a, 1), _own(b, 1)),
        "no guard": lambda a, b: tuple((x - a.mean(0)) / a.std(0) for x in (a, b)),
        "guard by a tiny number": lambda a, b: tuple(
            (x - a.mean(0)) / (a.std(0) + 1e-8) for x in (a, b)
        ),
        "in place": lambda a, b: tuple(
            x.copy_(z) for x, z in zip((a, b), fix_leak(a, b), strict=True)
        ),
    },
    alternatives=(
        _leak_numpy,
        lambda a, b: [(x - a.mean(0)) / (a.std(0) + (a.std(0) == 0)) for x in (a, b)],
    ),
)


def selectivity(probe, train, test, control):
    """Accuracy of a probe on its task minus its accuracy on the control task (Hewitt & Liang 2019).

    The control task gives every *type* of item one random label, so that only a probe that memorizes can solve it.
    probe(z_train, y_train, z_test) trains a fresh probe and returns its labels for z_test.
    train, test: (z (N, d), y (N,) labels of the task, types (N,) whole numbers). control: (number of types,), the
    random label of each type: the control task's labels are control[types]. Returns one number in [-1, 1].
    """
    z_train, y_train, types_train = train
    z_test, y_test, types_test = test
    task = (probe(z_train, y_train, z_test) == y_test).float().mean()
    memory = (probe(z_train, control[types_train], z_test) == control[types_test]).float().mean()
    return task - memory


def _nearest_mean(z, y, z_test):
    return y.unique()[
        torch.cdist(z_test, torch.stack([z[y == label].mean(0) for label in y.unique()])).argmin(1)
    ]


def _selectivity_cases(generator):
    def items(n, centers, noise):
        types = torch.randint(len(centers), (n,), generator=generator)
        z = centers[types] + noise * torch.randn(n, 5, generator=generator)
        return z, torch.bucketize(z[:, 0], torch.tensor([-0.4, 0.4])), types

    def problem(probe, noise):
        centers, control = (
            torch.randn(12, 5, generator=generator),
            torch.randint(3, (12,), generator=generator),
        )
        return probe, items(150, centers, noise), items(97, centers, noise), control

    return {
        "a simple probe": problem(_nearest_mean, 0.5),
        "a probe that memorizes": problem(
            lambda z, y, z_test: y[torch.cdist(z_test, z).argmin(1)], 0.3
        ),
        "noisy features": problem(_nearest_mean, 1.5),
    }


def _selectivity_short(probe, train, test, control):
    tasks = zip((train[1], control[train[2]]), (test[1], control[test[2]]), strict=True)
    task, memory = (
        (probe(train[0], y, test[0]) == y_test).double().mean().item() for y, y_test in tasks
    )
    return task - memory


def _selectivity_lists(probe, train, test, control):
    answers = torch.tensor([control[int(t)].item() for t in test[2]])
    right, memory = (
        probe(*train[:2], test[0]) == test[1],
        probe(train[0], control[train[2]], test[0]) == answers,
    )
    return torch.tensor((sum(right.tolist()) - sum(memory.tolist())) / len(answers))


def _wrong_selectivity(choose):
    """choose(z, y, c, z_test, y_test, c_test, accuracy) -> number; c: the control task's labels."""
    return lambda probe, train, test, control: choose(
        *train[:2],
        control[train[2]],
        *test[:2],
        control[test[2]],
        lambda z, y, z_test, y_test: (probe(z, y, z_test) == y_test).float().mean(),
    )


SELECTIVITY = Exercise(
    solution=selectivity,
    cases=_selectivity_cases,
    difficulty=2,
    minutes=10,
    hints=(
        "Two probes are trained: one on the labels y, one on the control task's labels control[types].",
        "Both are scored on the test set, each against the labels of its own task.",
        "Items of one type have one control label in both sets: control[types_train] and control[types_test].",
    ),
    wrong={
        "sign": _wrong_selectivity(
            lambda z, y, c, z2, y2, c2, f: f(z, c, z2, c2) - f(z, y, z2, y2)
        ),
        "ratio": _wrong_selectivity(
            lambda z, y, c, z2, y2, c2, f: f(z, y, z2, y2) / f(z, c, z2, c2)
        ),
        "one probe for both": _wrong_selectivity(
            lambda z, y, c, z2, y2, c2, f: f(z, y, z2, y2) - f(z, y, z2, c2)
        ),
        "scored against y": _wrong_selectivity(
            lambda z, y, c, z2, y2, c2, f: f(z, y, z2, y2) - f(z, c, z2, y2)
        ),
        "scored on the training set": _wrong_selectivity(
            lambda z, y, c, z2, y2, c2, f: f(z, y, z, y) - f(z, c, z, c)
        ),
        "labels by item": _wrong_selectivity(
            lambda z, y, c, z2, y2, c2, f: f(z, y, z2, y2) - f(z, c.flip(0), z2, c2)
        ),
    },
    alternatives=(_selectivity_short, _selectivity_lists),
)

EXERCISES = [PROBE, LEAK, SELECTIVITY]
