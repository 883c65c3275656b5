"""Exercises of lesson 02: a probe's loss and gradient, an evaluation without leakage, selectivity.

Shapes: N pictures, d numbers in a feature vector, C classes.
"""

import numpy as np
import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise

# --- probe_loss_and_gradient ------------------------------------------------------------------


def probe_loss_and_gradient(w, b, x, y, l2):
    """Loss of the probe softmax(x w + b), and its gradient by hand.

    The loss is the mean cross-entropy + l2/2 |w|^2; b is not penalized.
    w: (d, C). b: (C,). x: (N, d). y: (N,) labels 0..C-1.
    Returns (loss, gradient for w (d, C), gradient for b (C,)).
    """
    log_p = F.log_softmax(x @ w + b, dim=1)  # (N, C)
    loss = -log_p[torch.arange(len(y)), y].mean() + l2 / 2 * (w**2).sum()
    error = (log_p.exp() - F.one_hot(y, len(b))) / len(y)  # (N, C): probability minus truth
    return loss, x.T @ error + l2 * w, error.sum(dim=0)


def _probe_cases(generator: torch.Generator) -> dict[str, tuple]:
    def problem(n, d, classes, l2, scale=1.0):
        w = torch.randn(d, classes, generator=generator)
        b = torch.randn(classes, generator=generator)
        x = torch.randn(n, d, generator=generator)
        y = torch.randint(classes, (n,), generator=generator)
        return scale * w, b, x, y, l2

    return {
        "a random problem": problem(12, 4, 3, 0.1),
        "a strong penalty": problem(7, 3, 4, 2.0),
        "a single picture": problem(1, 6, 5, 0.01),
        "scores of several hundred (exp alone overflows)": problem(10, 4, 3, 0.1, scale=300.0),
    }


def _probe_by_autograd(w, b, x, y, l2):
    w = w.clone().requires_grad_()
    b = b.clone().requires_grad_()
    loss = F.cross_entropy(x @ w + b, y) + 0.5 * l2 * w.square().sum()
    return [loss.detach(), *torch.autograd.grad(loss, (w, b))]


def _probe_by_formula(w, b, x, y, l2):
    scores = x @ w + b
    truth = torch.eye(len(b))[y]
    cross_entropy = (scores.logsumexp(1) - (scores * truth).sum(1)).mean().item()
    penalty = 0.5 * l2 * w.pow(2).sum().item()
    error = scores.softmax(1) - truth
    gradient_w = torch.einsum("nd,nc->dc", x, error).div(len(x)).add(w, alpha=l2)
    return [cross_entropy + penalty, gradient_w, error.mean(0)]


def _sum_in_place_of_mean(w, b, x, y, l2):
    """Everything N times too large."""
    return [len(x) * value for value in probe_loss_and_gradient(w, b, x, y, l2)]


def _gradient_without_penalty(w, b, x, y, l2):
    """The penalty is in the loss, but not in its gradient."""
    loss, gradient_w, gradient_b = probe_loss_and_gradient(w, b, x, y, l2)
    return loss, gradient_w - l2 * w, gradient_b


def _penalty_not_halved(w, b, x, y, l2):
    """The loss has l2 |w|^2 in place of l2/2 |w|^2."""
    loss, gradient_w, gradient_b = probe_loss_and_gradient(w, b, x, y, l2)
    return loss + l2 / 2 * w.square().sum(), gradient_w, gradient_b


def _penalty_on_b(w, b, x, y, l2):
    """The bias is penalized too."""
    loss, gradient_w, gradient_b = probe_loss_and_gradient(w, b, x, y, l2)
    return loss + l2 / 2 * b.square().sum(), gradient_w, gradient_b + l2 * b


def _gradient_transposed(w, b, x, y, l2):
    """The gradient for w is (C, d) in place of (d, C)."""
    loss, gradient_w, gradient_b = probe_loss_and_gradient(w, b, x, y, l2)
    return loss, gradient_w.T, gradient_b


def _probe_overflows(w, b, x, y, l2):
    """The softmax as its formula says: exp(300) is infinite, and infinity / infinity NaN."""
    exponentials = (x @ w + b).exp()
    p = exponentials / exponentials.sum(dim=1, keepdim=True)
    error = (p - F.one_hot(y, len(b))) / len(y)
    loss = -p[torch.arange(len(y)), y].log().mean() + l2 / 2 * w.square().sum()
    return loss, x.T @ error + l2 * w, error.sum(0)


PROBE = Exercise(
    solution=probe_loss_and_gradient,
    cases=_probe_cases,
    difficulty=2,
    minutes=15,
    tolerance=1e-3,
    hints=(
        "torch.log_softmax(x @ w + b, dim=1) is (N, C); pick column y in each row, take the mean, "
        "change the sign.",
        "The gradient for the scores is (probability - truth) / N, and F.one_hot(y, C) gives the "
        "truth as (N, C).",
        "Chain rule: for w multiply by x.T and add l2 * w; for b sum over the pictures. b has no "
        "penalty.",
    ),
    wrong={
        "sum in place of mean": _sum_in_place_of_mean,
        "gradient without the penalty": _gradient_without_penalty,
        "penalty not halved": _penalty_not_halved,
        "penalty on b": _penalty_on_b,
        "transposed": _gradient_transposed,
        "exp overflows": _probe_overflows,
    },
    alternatives=(_probe_by_autograd, _probe_by_formula),
)


# --- fix_leak ---------------------------------------------------------------------------------


def fix_leak(x_train, x_test):
    """Standardize both sets without telling the probe anything about the test set.

    Each column (feature) is shifted and scaled by the mean and the standard deviation that it has
    in x_train. A column that is constant in x_train is only shifted.
    x_train: (N, d). x_test: (M, d). Returns the two new sets.
    """
    mean = x_train.mean(dim=0)  # (d,)
    std = x_train.std(dim=0, unbiased=False)  # (d,)
    std = torch.where(std > 0, std, 1.0)  # a constant column: divide by 1, not by 0
    return (x_train - mean) / std, (x_test - mean) / std


def _leak_cases(generator: torch.Generator) -> dict[str, tuple]:
    def sets(shift=0.0):
        scale, center = torch.rand(2, 4, generator=generator) * 5 + 0.5
        train = torch.randn(256, 4, generator=generator) * scale + center
        test = torch.randn(64, 4, generator=generator) * scale + center
        return train, test * 1.5 + shift

    constant, other = sets(1.0)
    constant[:, 2] = 2.0
    other[:, 2] = 3.0
    small = torch.tensor([1.0, 1e-3, 1.0, 1e-3])
    return {
        "sets that differ in spread": sets(),
        "a test set that is shifted": sets(3.0),
        "columns of small numbers": tuple(x * small for x in sets()),
        "a column that is constant in x_train": (constant, other),
        "a test set of one picture": (constant[:, :2], other[:1, :2]),
    }


def _leak_by_numpy(x_train, x_test):
    center = x_train.numpy().mean(0)
    scale = x_train.numpy().std(0)
    scale = np.where(scale > 0, scale, 1.0)
    return tuple((x.numpy() - center) / scale for x in (x_train, x_test))


def _leak_by_adding_one(x_train, x_test):
    mean = x_train.mean(0)
    std = x_train.std(0)
    std = std + (std == 0)
    return [(x_train - mean) / std, (x_test - mean) / std]


def _standardize_alone(x, dim=0):
    """Standardize a set by its own statistics."""
    std = x.std(dim, unbiased=False, keepdim=True)
    return (x - x.mean(dim, keepdim=True)) / torch.where(std > 0, std, 1.0)


def _statistics_of_both(x_train, x_test):
    """Mean and standard deviation of both sets together: this is the leak."""
    both = torch.cat([x_train, x_test])
    return _standardize_alone(both).split([len(x_train), len(x_test)])


def _own_statistics(x_train, x_test):
    """Each set by its own statistics: a shift between the two is lost."""
    return _standardize_alone(x_train), _standardize_alone(x_test)


def _rows_in_place_of_columns(x_train, x_test):
    """Each picture is standardized over its features."""
    return _standardize_alone(x_train, dim=1), _standardize_alone(x_test, dim=1)


def _no_guard(x_train, x_test):
    """A constant column is divided by 0."""
    mean = x_train.mean(0)
    std = x_train.std(0)
    return (x_train - mean) / std, (x_test - mean) / std


def _tiny_guard(x_train, x_test):
    """A column that is constant in x_train is divided by 1e-8: the test set explodes."""
    mean = x_train.mean(0)
    std = x_train.std(0) + 1e-8
    return (x_train - mean) / std, (x_test - mean) / std


def _leak_in_place(x_train, x_test):
    """The right values, written over the inputs."""
    new_train, new_test = fix_leak(x_train, x_test)
    return x_train.copy_(new_train), x_test.copy_(new_test)


LEAK = Exercise(
    solution=fix_leak,
    cases=_leak_cases,
    difficulty=1,
    minutes=5,
    tolerance=0.01,
    hints=(
        "Whatever is computed from data is training. So mean and standard deviation come from "
        "x_train alone.",
        "mean(dim=0) runs over the pictures and gives one number a column. The same numbers "
        "transform both sets.",
        "A constant column has standard deviation 0. torch.where(std > 0, std, 1.0) leaves it "
        "shifted only.",
    ),
    wrong={
        "statistics of both sets": _statistics_of_both,
        "each set its own statistics": _own_statistics,
        "rows in place of columns": _rows_in_place_of_columns,
        "no guard": _no_guard,
        "guard by a tiny number": _tiny_guard,
        "in place": _leak_in_place,
    },
    alternatives=(_leak_by_numpy, _leak_by_adding_one),
)


# --- selectivity ------------------------------------------------------------------------------


def selectivity(probe, train, test, control):
    """Accuracy of a probe on its task minus its accuracy on the control task (Hewitt & Liang 2019).

    The control task gives every *type* of item one random label, so that only a probe that
    memorizes can solve it. probe(z_train, y_train, z_test) trains a fresh probe and returns its
    labels for z_test. train, test: (z (N, d), y (N,) labels of the task, types (N,) whole numbers).
    control: (number of types,), the random label of each type: the control task's labels are
    control[types]. Returns one number in [-1, 1].
    """
    z_train, y_train, types_train = train
    z_test, y_test, types_test = test
    task = (probe(z_train, y_train, z_test) == y_test).float().mean()
    memory = (probe(z_train, control[types_train], z_test) == control[types_test]).float().mean()
    return task - memory


def _nearest_mean(z, y, z_test):
    """A probe that knows one point a class, the mean of its features."""
    labels = y.unique()
    means = torch.stack([z[y == label].mean(0) for label in labels])
    return labels[torch.cdist(z_test, means).argmin(1)]


def _nearest_item(z, y, z_test):
    """A probe that memorizes: the label of the nearest training item."""
    return y[torch.cdist(z_test, z).argmin(1)]


def _selectivity_cases(generator: torch.Generator) -> dict[str, tuple]:
    def items(n, centers, noise):
        types = torch.randint(len(centers), (n,), generator=generator)
        z = centers[types] + noise * torch.randn(n, 5, generator=generator)
        y = torch.bucketize(z[:, 0].contiguous(), torch.tensor([-0.4, 0.4]))
        return z, y, types

    def problem(probe, noise):
        centers = torch.randn(12, 5, generator=generator)
        control = torch.randint(3, (12,), generator=generator)
        return probe, items(150, centers, noise), items(97, centers, noise), control

    return {
        "a simple probe": problem(_nearest_mean, 0.5),
        "a probe that memorizes": problem(_nearest_item, 0.3),
        "noisy features": problem(_nearest_mean, 1.5),
    }


def _selectivity_by_number(probe, train, test, control):
    def accuracy(y_train, y_test):
        answers = probe(train[0], y_train, test[0])
        return (answers == y_test).double().mean().item()

    return accuracy(train[1], test[1]) - accuracy(control[train[2]], control[test[2]])


def _selectivity_by_counting(probe, train, test, control):
    control_labels = torch.tensor([control[int(item_type)].item() for item_type in test[2]])
    right = (probe(*train[:2], test[0]) == test[1]).tolist()
    memorized = (probe(train[0], control[train[2]], test[0]) == control_labels).tolist()
    return torch.tensor((sum(right) - sum(memorized)) / len(control_labels))


def _accuracy(probe, z_train, y_train, z_test, y_test):
    return (probe(z_train, y_train, z_test) == y_test).float().mean()


def _selectivity_sign(probe, train, test, control):
    """Control task minus task."""
    return -selectivity(probe, train, test, control)


def _selectivity_ratio(probe, train, test, control):
    """The accuracies are divided, not subtracted."""
    z_train, y_train, types_train = train
    z_test, y_test, types_test = test
    task = _accuracy(probe, z_train, y_train, z_test, y_test)
    memory = _accuracy(probe, z_train, control[types_train], z_test, control[types_test])
    return task / memory


def _one_probe_for_both(probe, train, test, control):
    """The probe of the task is scored on the control task, for which it was never trained."""
    z_train, y_train, _ = train
    z_test, y_test, types_test = test
    task = _accuracy(probe, z_train, y_train, z_test, y_test)
    memory = _accuracy(probe, z_train, y_train, z_test, control[types_test])
    return task - memory


def _control_scored_against_task(probe, train, test, control):
    """The control probe is scored against the labels of the task."""
    z_train, y_train, types_train = train
    z_test, y_test, _ = test
    task = _accuracy(probe, z_train, y_train, z_test, y_test)
    memory = _accuracy(probe, z_train, control[types_train], z_test, y_test)
    return task - memory


def _scored_on_training_set(probe, train, test, control):
    """Both accuracies on the training set."""
    return selectivity(probe, train, train, control)


def _labels_by_item(probe, train, test, control):
    """In training, a control label belongs to an item, here another one's, and not to its type."""
    z_train, y_train, types_train = train
    z_test, y_test, types_test = test
    task = _accuracy(probe, z_train, y_train, z_test, y_test)
    shuffled = control[types_train].flip(0)
    memory = _accuracy(probe, z_train, shuffled, z_test, control[types_test])
    return task - memory


SELECTIVITY = Exercise(
    solution=selectivity,
    cases=_selectivity_cases,
    difficulty=2,
    minutes=10,
    hints=(
        "Two probes are trained: one on the labels y, one on the control task's labels "
        "control[types].",
        "Both are scored on the test set, each against the labels of its own task.",
        "Items of one type have one control label in both sets: control[types_train] and "
        "control[types_test].",
    ),
    wrong={
        "sign": _selectivity_sign,
        "ratio": _selectivity_ratio,
        "one probe for both": _one_probe_for_both,
        "scored against y": _control_scored_against_task,
        "scored on the training set": _scored_on_training_set,
        "labels by item": _labels_by_item,
    },
    alternatives=(_selectivity_by_number, _selectivity_by_counting),
)

EXERCISES = [PROBE, LEAK, SELECTIVITY]
