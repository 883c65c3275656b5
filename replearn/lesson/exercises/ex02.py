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

    The loss is the mean cross-entropy + l2/2 |w|^2; b is not penalized. w (d, C), b (C,) and
    x (N, d) are float32, y (N,) are int64 labels from 0 to C - 1, l2 is a float.
    Returns three tensors: the loss (), its gradient for w (d, C), its gradient for b (C,).
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


def _probe_by_a_loop(w, b, x, y, l2):
    loss = l2 / 2 * (w * w).sum()
    grad_w = l2 * w
    grad_b = torch.zeros_like(b)
    for picture, label in zip(x, y, strict=True):
        scores = picture @ w + b
        p = torch.exp(scores - scores.max())
        p = p / p.sum()
        loss = loss + (torch.logsumexp(scores, 0) - scores[label]) / len(x)
        p[label] -= 1
        grad_w = grad_w + torch.outer(picture, p) / len(x)
        grad_b = grad_b + p / len(x)
    return loss, grad_w, grad_b


def _probe_by_numpy(w, b, x, y, l2):
    w, b, x = (a.numpy().astype(np.float64) for a in (w, b, x))
    y = y.numpy()
    scores = x @ w + b
    scores = scores - scores.max(axis=1, keepdims=True)
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    loss = -np.mean(log_p[rows, y]) + 0.5 * l2 * np.sum(w**2)
    error = np.exp(log_p)
    error[rows, y] -= 1
    return loss, x.T @ error / len(y) + l2 * w, error.mean(axis=0)


def _probe_in_float64(w, b, x, y, l2):
    values = probe_loss_and_gradient(w.double(), b.double(), x.double(), y, l2)
    return list(values)


def _probe_by_backward(w, b, x, y, l2):
    w = torch.nn.Parameter(w.clone())
    b = torch.nn.Parameter(b.clone())
    loss = -(x @ w + b).log_softmax(-1).gather(1, y[:, None]).mean() + l2 / 2 * w.norm() ** 2
    loss.backward()
    return loss, w.grad, b.grad


def _probe_in_place_on_copies(w, b, x, y, l2):
    scores = x.clone().mm(w).add_(b)
    scores.sub_(scores.amax(1, keepdim=True))
    loss = F.nll_loss(scores.log_softmax(1), y) + l2 * w.square().sum() / 2
    error = scores.exp_().div_(scores.sum(1, keepdim=True))
    error[range(len(y)), y] -= 1.0
    return loss, x.t().mm(error).div_(len(y)).add_(l2 * w), error.mean(0)


def _sum_in_place_of_mean(w, b, x, y, l2):
    """The sum over the pictures in place of their mean."""
    loss, gradient_w, gradient_b = probe_loss_and_gradient(w, b, x, y, 0.0)
    n = len(x)
    return n * loss + l2 / 2 * w.square().sum(), n * gradient_w + l2 * w, n * gradient_b


def _sign_turned(w, b, x, y, l2):
    """The error is truth minus probability, so that the data's gradient has the wrong sign."""
    loss, gradient_w, gradient_b = probe_loss_and_gradient(w, b, x, y, l2)
    return loss, 2 * l2 * w - gradient_w, -gradient_b


def _softmax_over_pictures(w, b, x, y, l2):
    """The softmax runs over the pictures in place of the classes."""
    log_p = F.log_softmax(x @ w + b, dim=0)
    loss = -log_p[torch.arange(len(y)), y].mean() + l2 / 2 * w.square().sum()
    error = (log_p.exp() - F.one_hot(y, len(b))) / len(y)
    return loss, x.T @ error + l2 * w, error.sum(0)


def _penalty_forgotten(w, b, x, y, l2):
    """The penalty is missing from both the loss and the gradient."""
    return probe_loss_and_gradient(w, b, x, y, 0.0)


def _norm_not_squared(w, b, x, y, l2):
    """The penalty is the norm of w in place of its square."""
    loss, gradient_w, gradient_b = probe_loss_and_gradient(w, b, x, y, 0.0)
    norm = w.norm()
    return loss + l2 / 2 * norm, gradient_w + l2 / 2 * w / norm, gradient_b


def _gradient_averaged_twice(w, b, x, y, l2):
    """The data's part of the gradient is divided by N a second time."""
    loss, gradient_w, gradient_b = probe_loss_and_gradient(w, b, x, y, l2)
    data_part = gradient_w - l2 * w
    # A second division shows only where there are two pictures or more.
    return loss, data_part / len(x) + l2 * w, gradient_b / len(x)


def _logarithm_floored(w, b, x, y, l2):
    """A floor of 1e-12 under the probability, so that no loss of a picture exceeds 28."""
    _, gradient_w, gradient_b = probe_loss_and_gradient(w, b, x, y, l2)
    p = (x @ w + b).softmax(1)[torch.arange(len(y)), y]
    loss = -p.clamp(min=1e-12).log().mean() + l2 / 2 * w.square().sum()
    return loss, gradient_w, gradient_b


def _gradient_without_penalty(w, b, x, y, l2):
    """The penalty is in the loss, but its part of the gradient is missing."""
    loss, gradient_w, gradient_b = probe_loss_and_gradient(w, b, x, y, l2)
    return loss, gradient_w - l2 * w, gradient_b


def _penalty_not_halved(w, b, x, y, l2):
    """The loss has the penalty l2 |w|^2 in place of l2/2 |w|^2."""
    loss, gradient_w, gradient_b = probe_loss_and_gradient(w, b, x, y, l2)
    return loss + l2 / 2 * w.square().sum(), gradient_w, gradient_b


def _penalty_on_b(w, b, x, y, l2):
    """The bias b is penalized as well as w."""
    loss, gradient_w, gradient_b = probe_loss_and_gradient(w, b, x, y, l2)
    return loss + l2 / 2 * b.square().sum(), gradient_w, gradient_b + l2 * b


def _gradient_transposed(w, b, x, y, l2):
    """The gradient for w has the shape (C, d) in place of (d, C)."""
    loss, gradient_w, gradient_b = probe_loss_and_gradient(w, b, x, y, l2)
    return loss, gradient_w.T, gradient_b


def _probe_overflows(w, b, x, y, l2):
    """The exponential of a large score is infinite, and infinity divided by infinity is NaN."""
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
        "sign of the error": _sign_turned,
        "softmax over the pictures": _softmax_over_pictures,
        "penalty forgotten": _penalty_forgotten,
        "norm not squared": _norm_not_squared,
        "gradient averaged twice": _gradient_averaged_twice,
        "logarithm with a floor": _logarithm_floored,
    },
    alternatives=(
        _probe_by_autograd,
        _probe_by_formula,
        _probe_by_a_loop,
        _probe_by_numpy,
        _probe_in_float64,
        _probe_by_backward,
        _probe_in_place_on_copies,
    ),
)


# --- fix_leak ---------------------------------------------------------------------------------


def fix_leak(x_train, x_test):
    """Standardize both sets without telling the probe anything about the test set.

    Each column (feature) is shifted and scaled by the mean and the standard deviation that it has
    in x_train. Where a column is constant in x_train, that constant becomes 0.
    x_train: (N, d), float32. x_test: (M, d), float32. Returns the two new sets, of these shapes.
    """
    mean = x_train.mean(dim=0)  # (d,)
    std = x_train.std(dim=0, unbiased=False)  # (d,)
    std = torch.where(std > 1e-6, std, 1.0)  # a constant column: divide by 1, not by 0
    return (x_train - mean) / std, (x_test - mean) / std


def _leak_cases(generator: torch.Generator) -> dict[str, tuple]:
    def sets(shift=0.0):
        scale, center = torch.rand(2, 4, generator=generator) * 5 + 0.5
        train = torch.randn(256, 4, generator=generator) * scale + center
        test = torch.randn(64, 4, generator=generator) * scale + center
        return train, test * 1.5 + shift

    constant, other = sets(1.0)
    # Another value in x_test would tell std.clamp(min=1e-6) from a division by 1: both are right.
    constant[:, 2] = 2.0
    other[:, 2] = 2.0
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


def _leak_by_clamp(x_train, x_test):
    mean = x_train.mean(0)
    std = x_train.std(0).clamp(min=1e-6)
    return (x_train - mean) / std, (x_test - mean) / std


def _leak_by_a_tiny_number(x_train, x_test):
    mean = x_train.mean(0, keepdim=True)
    std = x_train.std(0, keepdim=True) + 1e-8
    return [(x - mean) / std for x in (x_train, x_test)]


def _leak_by_scikit_learn(x_train, x_test):
    from sklearn.preprocessing import StandardScaler  # late: the grader's processes do without

    scaler = StandardScaler().fit(x_train.numpy())
    return scaler.transform(x_train.numpy()), scaler.transform(x_test.numpy())


def _leak_by_columns(x_train, x_test):
    new_train = torch.zeros_like(x_train)
    new_test = torch.zeros_like(x_test)
    for j in range(x_train.shape[1]):
        column = x_train[:, j].tolist()
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        std = variance**0.5 or 1.0
        new_train[:, j] = (x_train[:, j] - mean) / std
        new_test[:, j] = (x_test[:, j] - mean) / std
    return new_train, new_test


def _leak_in_float64(x_train, x_test):
    train = x_train.double()
    std, mean = torch.std_mean(train, dim=0, correction=0)
    std[std == 0] = 1
    return (train - mean) / std, (x_test.double() - mean) / std


def _leak_in_place_on_copies(x_train, x_test):
    mean = x_train.mean(0)
    std = x_train.var(0).sqrt_()
    std.masked_fill_(std < 1e-9, 1.0)
    return x_train.clone().sub_(mean).div_(std), x_test.clone().sub_(mean).div_(std)


def _standardize_alone(x, dim=0):
    """Standardize a set by its own statistics."""
    std = x.std(dim, unbiased=False, keepdim=True)
    return (x - x.mean(dim, keepdim=True)) / torch.where(std > 0, std, 1.0)


def _statistics_of_both(x_train, x_test):
    """Mean and standard deviation come from both sets together, which is the leak itself."""
    both = torch.cat([x_train, x_test])
    return _standardize_alone(both).split([len(x_train), len(x_test)])


def _own_statistics(x_train, x_test):
    """Each set is standardized by its own mean and standard deviation."""
    return _standardize_alone(x_train), _standardize_alone(x_test)


def _rows_in_place_of_columns(x_train, x_test):
    """Each picture is standardized over its features, row by row."""
    return _standardize_alone(x_train, dim=1), _standardize_alone(x_test, dim=1)


def _no_guard(x_train, x_test):
    """A constant column is divided by a standard deviation of 0."""
    mean = x_train.mean(0)
    std = x_train.std(0)
    return (x_train - mean) / std, (x_test - mean) / std


def _large_guard(x_train, x_test):
    """The standard deviation is raised to 0.01 at least, which is much for a small column."""
    mean = x_train.mean(0)
    std = x_train.std(0).clamp(min=0.01)
    return (x_train - mean) / std, (x_test - mean) / std


def _shifted_only(x_train, x_test):
    """Both sets are shifted by the mean, and not divided by the standard deviation."""
    mean = x_train.mean(0)
    return x_train - mean, x_test - mean


def _variance_in_place_of_std(x_train, x_test):
    """Each column is divided by its variance in place of its standard deviation."""
    mean = x_train.mean(0)
    variance = x_train.var(0)
    variance = torch.where(variance > 0, variance, 1.0)
    return (x_train - mean) / variance, (x_test - mean) / variance


def _test_left_alone(x_train, x_test):
    """Only x_train is standardized, and x_test is returned as it came."""
    return _standardize_alone(x_train), x_test


def _scaled_to_the_range(x_train, x_test):
    """Each column is scaled to its smallest and largest value in x_train."""
    low = x_train.amin(0)
    width = x_train.amax(0) - low
    width = torch.where(width > 0, width, 1.0)
    return (x_train - low) / width, (x_test - low) / width


def _one_number_for_all_columns(x_train, x_test):
    """One mean and one standard deviation for all columns together."""
    return (x_train - x_train.mean()) / x_train.std(), (x_test - x_train.mean()) / x_train.std()


def _own_mean_for_the_test(x_train, x_test):
    """The standard deviation comes from x_train, and the mean of x_test from x_test."""
    new_train, _ = fix_leak(x_train, x_test)
    _, shifted = fix_leak(x_train, x_test - x_test.mean(0) + x_train.mean(0))
    return new_train, shifted


def _leak_in_place(x_train, x_test):
    """The right values are written over the inputs."""
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
        "A constant column has standard deviation 0, and 0 / 0 is NaN. torch.where(std > 1e-6, "
        "std, 1.0) divides it by 1 instead.",
    ),
    wrong={
        "statistics of both sets": _statistics_of_both,
        "each set its own statistics": _own_statistics,
        "rows in place of columns": _rows_in_place_of_columns,
        "no guard": _no_guard,
        "a guard that is too large": _large_guard,
        "in place": _leak_in_place,
        "shifted only": _shifted_only,
        "variance in place of standard deviation": _variance_in_place_of_std,
        "test set left alone": _test_left_alone,
        "scaled to the range": _scaled_to_the_range,
        "one number for all columns": _one_number_for_all_columns,
        "own mean for the test set": _own_mean_for_the_test,
    },
    alternatives=(
        _leak_by_numpy,
        _leak_by_adding_one,
        _leak_by_clamp,
        _leak_by_a_tiny_number,
        _leak_by_scikit_learn,
        _leak_by_columns,
        _leak_in_float64,
        _leak_in_place_on_copies,
    ),
)


# --- selectivity ------------------------------------------------------------------------------


def selectivity(probe, train, test, control):
    """Accuracy of a probe on its task minus its accuracy on the control task (Hewitt & Liang 2019).

    The control task gives every *type* of item one random label, so that only a probe that
    memorizes can solve it. probe(z_train, y_train, z_test) trains a fresh probe and returns its
    labels for z_test, (M,) int64. train, test: each (z (N, d) float32, y (N,) int64 labels of the
    task, types (N,) int64). control: (number of types,) int64, the random label of each type; the
    control task's labels are control[types]. Returns one number in [-1, 1], a float or a tensor ().
    """
    z_train, y_train, types_train = train
    z_test, y_test, types_test = test
    task = (probe(z_train, y_train, z_test) == y_test).float().mean()
    memory = (probe(z_train, control[types_train], z_test) == control[types_test]).float().mean()
    return task - memory


def _nearest_mean(z_train, y_train, z_test):
    """A probe that knows one point a class, the mean of its features."""
    y_train = torch.as_tensor(y_train)
    labels = y_train.unique()
    means = torch.stack([z_train[y_train == label].mean(0) for label in labels])
    return labels[torch.cdist(z_test, means).argmin(1)]


def _nearest_item(z_train, y_train, z_test):
    """A probe that memorizes: the label of the nearest training item."""
    return torch.as_tensor(y_train)[torch.cdist(z_test, z_train).argmin(1)]


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


def _selectivity_by_numpy(probe, train, test, control):
    answers = probe(train[0], train[1], test[0]).numpy()
    task = np.mean(answers == test[1].numpy())
    answers = probe(train[0], control[train[2]], test[0]).numpy()
    return task - np.mean(answers == control[test[2]].numpy())


def _selectivity_by_names(probe, train, test, control):
    z_train, y_train, types_train = train
    z_test, y_test, types_test = test
    task = probe(z_train=z_train, y_train=y_train, z_test=z_test)
    memory = probe(z_train=z_train, y_train=control[types_train], z_test=z_test)
    return (task == y_test).double().mean() - (memory == control[types_test]).double().mean()


def _selectivity_by_a_loop(probe, train, test, control):
    scores = []
    for labels, truth in ((train[1], test[1]), (control[train[2]], control[test[2]])):
        answers = probe(train[0], labels, test[0])
        hits = 0
        for answer, right in zip(answers, truth, strict=True):
            hits += int(answer == right)
        scores.append(hits / len(truth))
    return scores[0] - scores[1]


def _selectivity_by_gather(probe, train, test, control):
    tasks = {"task": (train[1], test[1])}
    tasks["control"] = (control.gather(0, train[2]), torch.take(control, test[2]))
    accuracy = {}
    for name, (y_train, y_test) in tasks.items():
        accuracy[name] = torch.eq(probe(train[0], y_train, test[0]), y_test).sum() / y_test.numel()
    return accuracy["task"].sub(accuracy["control"]).item()


def _selectivity_by_errors(probe, train, test, control):
    error = (probe(train[0], train[1], test[0]) != test[1]).double().mean()
    labels = probe(train[0], control[train[2]], test[0])
    return (labels != control[test[2]]).double().mean() - error


def _accuracy(probe, z_train, y_train, z_test, y_test):
    return (probe(z_train, y_train, z_test) == y_test).float().mean()


def _selectivity_sign(probe, train, test, control):
    """The control task's accuracy minus the task's, so the sign is turned."""
    return -selectivity(probe, train, test, control)


def _selectivity_ratio(probe, train, test, control):
    """The two accuracies are divided, not subtracted."""
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
    """The control task's probe is scored against the labels of the task."""
    z_train, y_train, types_train = train
    z_test, y_test, _ = test
    task = _accuracy(probe, z_train, y_train, z_test, y_test)
    memory = _accuracy(probe, z_train, control[types_train], z_test, y_test)
    return task - memory


def _scored_on_training_set(probe, train, test, control):
    """Both accuracies are measured on the training set."""
    return selectivity(probe, train, train, control)


def _labels_by_item(probe, train, test, control):
    """In training, the control labels are dealt to items and do not belong to their types."""
    z_train, y_train, types_train = train
    z_test, y_test, types_test = test
    task = _accuracy(probe, z_train, y_train, z_test, y_test)
    shuffled = control[types_train].flip(0)
    memory = _accuracy(probe, z_train, shuffled, z_test, control[types_test])
    return task - memory


def _control_forgotten(probe, train, test, control):
    """The accuracy on the task alone, with nothing subtracted."""
    z_train, y_train, _ = train
    return _accuracy(probe, z_train, y_train, test[0], test[1])


def _chance_in_place_of_control(probe, train, test, control):
    """The share of the most frequent class is subtracted in place of the control task."""
    z_train, y_train, _ = train
    likely = (test[1] == y_train.mode().values).float().mean()
    return _accuracy(probe, z_train, y_train, test[0], test[1]) - likely


def _types_as_labels(probe, train, test, control):
    """The control task's labels are the types themselves, not their random labels."""
    z_train, y_train, types_train = train
    z_test, y_test, types_test = test
    task = _accuracy(probe, z_train, y_train, z_test, y_test)
    return task - _accuracy(probe, z_train, types_train, z_test, types_test)


def _control_of_the_class(probe, train, test, control):
    """The random label is looked up for the class of an item, not for its type."""
    z_train, y_train, _ = train
    z_test, y_test, _ = test
    task = _accuracy(probe, z_train, y_train, z_test, y_test)
    return task - _accuracy(probe, z_train, control[y_train], z_test, control[y_test])


def _half_the_difference(probe, train, test, control):
    """Half of the difference, as if it were a mean of the two tasks."""
    return selectivity(probe, train, test, control) / 2


def _clipped_at_zero(probe, train, test, control):
    """A negative selectivity is set to 0."""
    return selectivity(probe, train, test, control).clamp(min=0)


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
        "control forgotten": _control_forgotten,
        "chance in place of the control task": _chance_in_place_of_control,
        "types as labels": _types_as_labels,
        "label of the class": _control_of_the_class,
        "half the difference": _half_the_difference,
        "clipped at 0": _clipped_at_zero,
    },
    alternatives=(
        _selectivity_by_number,
        _selectivity_by_counting,
        _selectivity_by_numpy,
        _selectivity_by_names,
        _selectivity_by_a_loop,
        _selectivity_by_gather,
        _selectivity_by_errors,
    ),
)

EXERCISES = [PROBE, LEAK, SELECTIVITY]
