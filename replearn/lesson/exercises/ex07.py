"""Exercises of lesson 07: CCA by SVD, CLIP's symmetric loss, prompts that break zero-shot.

Shapes: N pairs or pictures; P and Q columns of two views; d numbers in an embedding; C classes.
"""

import numpy as np
import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise
from replearn.lesson.exercises.compare import kind

# --- cca_by_svd -------------------------------------------------------------------------------


def cca_by_svd(x, y):
    """Canonical correlations (Hotelling 1936), the largest first.

    They are the singular values of S_xx^-1/2 S_xy S_yy^-1/2, with S the covariances of the
    centered views. x: (N, P) and y: (N, Q), float32, not centered, each with independent columns,
    N > P, Q. Returns a tensor (min(P, Q),), floats in [0, 1].
    """
    x = x - x.mean(dim=0)
    y = y - y.mean(dim=0)
    # x = U S V^T, and U = x V S^-1 is x whitened.
    u_x, _, _ = torch.linalg.svd(x, full_matrices=False)
    u_y, _, _ = torch.linalg.svd(y, full_matrices=False)
    return torch.linalg.svdvals(u_x.T @ u_y)  # the cross-covariance of the whitened views


def _cca_cases(generator: torch.Generator) -> dict[str, tuple]:
    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    def view(causes, d):
        """d columns, mixed from noisy copies of the causes and from noise of their own."""
        n, shared = causes.shape
        columns = torch.cat([causes + 0.7 * noise(n, shared), noise(n, d - shared)], 1)
        return mixed(columns)

    def mixed(columns):
        """A rotation of columns of somewhat different scale: float32 is precise enough for it."""
        d = columns.shape[1]
        rotation, _ = torch.linalg.qr(noise(d, d))
        return columns * torch.linspace(1, 3, d) @ rotation

    def views(n, p, q, shared, mean=0.0):
        causes = noise(n, shared)
        x = view(causes, p)
        y = view(causes, q)
        return x + mean, y - mean

    x, y = views(80, 4, 4, 2)
    return {
        "two shared causes": views(100, 5, 3, 2),
        "columns of very different scale": (x * torch.tensor([0.2, 1, 2, 6]), y),
        "means far from zero": views(60, 3, 4, 1, mean=5.0),
        "one column each (the absolute value of Pearson's correlation)": views(50, 1, 1, 1),
        "a view and a mixture of it (correlations 1)": (x, mixed(x)),
    }


def _cca_by_eigenvalues(x, y):
    """The route of most textbooks: eigenvalues of S_xx^-1 S_xy S_yy^-1 S_yx, the squares."""
    x = (x - x.mean(0)).double()
    y = (y - y.mean(0)).double()
    product = torch.linalg.solve(x.T @ x, x.T @ y) @ torch.linalg.solve(y.T @ y, y.T @ x)
    squares = torch.linalg.eigvals(product).real.sort(descending=True).values.clamp(0, 1)
    return squares[: min(x.shape[1], y.shape[1])].sqrt()


def _cca_by_cholesky(x, y):
    def whitened(view):
        view = (view - view.mean(0)).double()
        factor = torch.linalg.cholesky(view.T @ view)
        return torch.linalg.solve_triangular(factor, view.T, upper=False)

    return torch.linalg.svdvals(whitened(x) @ whitened(y).T).clamp(max=1)


def _cca_by_eigh(x, y):
    """As in the lesson, in the precision of the views."""

    def whitened(view):
        view = view - view.mean(0)
        values, vectors = torch.linalg.eigh(view.T @ view)
        return view @ vectors / values.sqrt()

    return torch.linalg.svdvals(whitened(x).T @ whitened(y))


def _cca_by_qr(x, y):
    basis_x = torch.linalg.qr(x - x.mean(0)).Q
    basis_y = torch.linalg.qr(y - y.mean(0)).Q
    return torch.linalg.svdvals(basis_y.T @ basis_x)


def _cca_by_angles(x, y):
    """The cosines of the angles between two subspaces, as a list."""
    import scipy.linalg

    x = (x - x.mean(0)).double().numpy()
    y = (y - y.mean(0)).double().numpy()
    return sorted(np.cos(scipy.linalg.subspace_angles(x, y)).tolist(), reverse=True)


def _cca_in_numpy(x, y):
    x = x.numpy() - x.numpy().mean(0)
    y = y.numpy() - y.numpy().mean(0)
    left = np.linalg.svd(x, full_matrices=False)[0]
    right = np.linalg.svd(y, full_matrices=False)[0]
    return np.linalg.svd(left.T @ right, compute_uv=False)


def _cca_by_projectors(x, y):
    """The squares are the eigenvalues of the product of the projectors onto the two views."""
    x = (x - x.mean(0)).double()
    y = (y - y.mean(0)).double()
    onto_x = x @ torch.linalg.pinv(x)
    onto_y = y @ torch.linalg.pinv(y)
    squares = torch.linalg.eigvalsh(onto_x @ onto_y @ onto_x).flip(0)
    return squares[: min(x.shape[1], y.shape[1])].clamp(0, 1).sqrt()


def _cca_in_a_loop(x, y):
    """One pair after the other, each taken out before the next."""
    x = x.clone()
    y = y.clone()
    x -= x.mean(0)
    y -= y.mean(0)
    rest = torch.linalg.qr(x.double())[0].T @ torch.linalg.qr(y.double())[0]
    correlations = []
    for _ in range(min(rest.shape)):
        u, s, vt = torch.linalg.svd(rest)
        correlations.append(s[0])
        rest = rest - s[0] * torch.outer(u[:, 0], vt[0])
    return correlations


def _cca_no_whitening(x, y):
    """These are the singular values of the covariance between views that are not whitened."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    return torch.linalg.svdvals(x.T @ y / (len(x) - 1))


def _cca_unit_variance(x, y):
    """Each column has variance 1, but the columns of a view are still correlated."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    x = x / x.std(0)
    y = y / y.std(0)
    return torch.linalg.svdvals(x.T @ y / (len(x) - 1))


def _cca_not_centered(x, y):
    """The views are not centered, so their means count as something that they share."""
    return torch.linalg.svdvals(torch.linalg.qr(x)[0].T @ torch.linalg.qr(y)[0])


def _cca_squared(x, y):
    """These are the squares of the correlations."""
    return cca_by_svd(x, y) ** 2


def _cca_first_only(x, y):
    """The largest correlation stands in every place."""
    return cca_by_svd(x, y)[:1].repeat(min(x.shape[1], y.shape[1]))


def _cca_smallest_first(x, y):
    """The correlations stand in rising order, the smallest first."""
    return cca_by_svd(x, y).flip(0)


def _cca_column_by_column(x, y):
    """Column i of one view is correlated with column i of the other, so no direction is sought."""
    k = min(x.shape[1], y.shape[1])
    x = F.normalize(x - x.mean(0), dim=0)[:, :k]
    y = F.normalize(y - y.mean(0), dim=0)[:, :k]
    return (x * y).sum(0).abs().sort(descending=True).values


def _cca_one_view_white(x, y):
    """Only the first view is whitened."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    u_x, _, _ = torch.linalg.svd(x, full_matrices=False)
    return torch.linalg.svdvals(u_x.T @ y / len(x) ** 0.5)


def _cca_inverse_covariance(x, y):
    """The views are multiplied by the inverse of their covariance in place of its square root."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    n = len(x) - 1
    white_x = torch.linalg.solve(x.T @ x / n, x.T)
    white_y = torch.linalg.solve(y.T @ y / n, y.T)
    return torch.linalg.svdvals(white_x @ white_y.T / n)


def _cca_two_divisors(x, y):
    """One covariance is divided by N and another by N - 1."""
    return cca_by_svd(x, y) * (len(x) - 1) / len(x)


def _cca_components_by_number(x, y):
    """Principal component i of one view is compared with number i of the other."""
    u_x, _, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    u_y, _, _ = torch.linalg.svd(y - y.mean(0), full_matrices=False)
    return (u_x.T @ u_y).diagonal().abs().sort(descending=True).values


CCA = Exercise(
    solution=cca_by_svd,
    cases=_cca_cases,
    difficulty=2,
    minutes=10,
    tolerance=1e-3,
    hints=(
        "Center both views first. The SVD x = U S V^T gives the whitened view for free: it is U.",
        "The cross-covariance of the whitened views is U_x^T U_y, of shape (P, Q).",
        "torch.linalg.svd(x, full_matrices=False) twice, then torch.linalg.svdvals of the product.",
    ),
    wrong={
        "no whitening": _cca_no_whitening,
        "each column to unit variance only": _cca_unit_variance,
        "not centered": _cca_not_centered,
        "squared": _cca_squared,
        "the first only": _cca_first_only,
        "the smallest first": _cca_smallest_first,
        "column by column": _cca_column_by_column,
        "only one view whitened": _cca_one_view_white,
        "the inverse of the covariance": _cca_inverse_covariance,
        "N and N - 1 mixed": _cca_two_divisors,
        "principal components by their number": _cca_components_by_number,
    },
    alternatives=(
        _cca_by_eigenvalues,
        _cca_by_cholesky,
        _cca_by_eigh,
        _cca_by_qr,
        _cca_by_angles,
        _cca_in_numpy,
        _cca_by_projectors,
        _cca_in_a_loop,
    ),
)


# --- symmetric_loss ---------------------------------------------------------------------------


def symmetric_loss(image_z, text_z, log_scale):
    """CLIP's loss (Radford et al. 2021, Fig. 3): the mean of the losses in both directions.

    They are the cross-entropies picture to text and text to picture. The scores are the cosines
    times exp(log_scale), and that factor is never above 100. image_z, text_z: (N, d), float32,
    row i of both is a pair, rows of any length. log_scale: a tensor with one number, which is
    learned, so it gets a gradient too. Returns a tensor with one number, in nats.
    """
    scale = log_scale.exp().clamp(max=100)
    scores = scale * F.normalize(image_z, dim=1) @ F.normalize(text_z, dim=1).T  # (N, N)
    partner = torch.arange(len(scores))
    return (F.cross_entropy(scores, partner) + F.cross_entropy(scores.T, partner)) / 2


def _loss_cases(generator: torch.Generator) -> dict[str, tuple]:
    def pair(n, d, noise=1.0):
        z = torch.randn(n, d, generator=generator)
        return z, z + noise * torch.randn(n, d, generator=generator)

    same = torch.randn(1, 5, generator=generator).repeat(6, 1)
    lengths = torch.linspace(0.5, 5, 8)[:, None]
    return {
        "random pairs": (*pair(6, 4), torch.tensor(1.0)),
        "two pairs": (*pair(2, 3), torch.tensor(2.0)),
        "rows of different lengths": (*(z * lengths for z in pair(8, 6)), torch.tensor(1.5)),
        "CLIP's first scale, 1 / 0.07": (*pair(10, 8, 0.5), torch.tensor(1 / 0.07).log()),
        "a scale beyond 100 (it is held there)": (*pair(7, 3), torch.tensor(6.0)),
        "collapsed encoders (the loss is log N)": (same, same.clone(), torch.tensor(1.0)),
    }


def _loss_by_loop(image_z, text_z, log_scale):
    scale = torch.minimum(log_scale.exp(), torch.tensor(100.0))
    images = [row / row.norm() for row in image_z]
    texts = [row / row.norm() for row in text_z]
    total = 0.0
    for i in range(len(images)):
        for one, others in ((images[i], texts), (texts[i], images)):
            scores = scale * torch.stack([one @ other for other in others])
            total = total + torch.logsumexp(scores, 0) - scores[i]
    return total / (2 * len(images))


def _loss_by_log_softmax(image_z, text_z, log_scale):
    cosine = F.cosine_similarity(image_z[:, None], text_z[None], dim=2)
    scores = cosine * log_scale.exp().clamp(max=100)
    to_text = scores.log_softmax(1).diagonal()
    to_image = scores.log_softmax(0).diagonal()
    return -(to_text + to_image).mean() / 2


def _loss_in_float64(image_z, text_z, log_scale):
    images = image_z.double() / image_z.double().norm(dim=1, keepdim=True)
    texts = text_z.double() / text_z.double().norm(dim=1, keepdim=True)
    scores = torch.einsum("id,jd->ij", images, texts) * log_scale.double().exp().clamp(max=100)
    right = scores.diag()
    return ((scores.logsumexp(0) - right).mean() + (scores.logsumexp(1) - right).mean()) / 2


def _loss_by_one_hot(image_z, text_z, log_scale):
    """The targets as rows of probabilities, texts first."""
    scale = log_scale.clamp(max=torch.tensor(100.0).log()).exp()
    scores = F.normalize(text_z) @ F.normalize(image_z).T * scale
    target = torch.eye(len(scores))
    losses = [F.cross_entropy(scores, target), F.cross_entropy(scores.T, target)]
    return sum(losses) / len(losses)


def _loss_by_python_min(image_z, text_z, log_scale):
    scale = min(log_scale.exp(), 100)
    scores = scale * F.normalize(image_z) @ F.normalize(text_z).T
    both = torch.cat([scores, scores.T])  # (2N, N)
    partner = torch.arange(len(scores)).repeat(2)
    return F.cross_entropy(both, partner)


def _loss_of_shape_1(image_z, text_z, log_scale):
    return symmetric_loss(image_z, text_z, log_scale).reshape(1)


def _loss_by_nll(image_z, text_z, log_scale):
    images = image_z / image_z.square().sum(1, keepdim=True).sqrt()
    texts = text_z / text_z.square().sum(1, keepdim=True).sqrt()
    scores = torch.where(log_scale.exp() > 100, 100.0, log_scale.exp()) * images.mm(texts.t())
    rows = torch.arange(len(scores))
    return 0.5 * sum(F.nll_loss(s.log_softmax(1), rows) for s in (scores, scores.t()))


def _scores(image_z, text_z, scale):
    """Cosines times a scale, (N, N): rows pictures, columns texts."""
    return scale * F.normalize(image_z) @ F.normalize(text_z).T


def _to_partner(scores):
    """Cross-entropy over the rows, with the diagonal as the right answer."""
    return F.cross_entropy(scores, torch.arange(len(scores)))


def _both_directions(scores):
    return 0.5 * _to_partner(scores) + 0.5 * _to_partner(scores.T)


def _picture_to_text_only(image_z, text_z, log_scale):
    """Each picture looks for its text, but no text looks for its picture."""
    return _to_partner(_scores(image_z, text_z, log_scale.exp().clamp(max=100)))


def _text_to_picture_only(image_z, text_z, log_scale):
    """Each text looks for its picture, but no picture looks for its text."""
    return _to_partner(_scores(image_z, text_z, log_scale.exp().clamp(max=100)).T)


def _sum_of_both(image_z, text_z, log_scale):
    """The two directions are added up, which is twice their mean."""
    return 2 * symmetric_loss(image_z, text_z, log_scale)


def _clip_not_normalized(image_z, text_z, log_scale):
    """The scores are dot products in place of cosines."""
    scale = log_scale.exp().clamp(max=100)
    return _both_directions(scale * image_z @ text_z.T)


def _logarithm_as_scale(image_z, text_z, log_scale):
    """The scores are multiplied by the logarithm of the scale."""
    return _both_directions(_scores(image_z, text_z, log_scale))


def _divided_by_scale(image_z, text_z, log_scale):
    """The scores are divided by the scale, as if it were a temperature."""
    return _both_directions(_scores(image_z, text_z, (-log_scale).exp()))


def _not_clamped(image_z, text_z, log_scale):
    """The scale is not held at 100."""
    return _both_directions(_scores(image_z, text_z, log_scale.exp()))


def _scale_without_gradient(image_z, text_z, log_scale):
    """The value is right, but the temperature cannot be learned: it gets no gradient."""
    return symmetric_loss(image_z, text_z, log_scale.detach())


def _text_without_gradient(image_z, text_z, log_scale):
    """The value is right, but the text encoder cannot be learned: it gets no gradient."""
    return symmetric_loss(image_z, text_z.detach(), log_scale)


def _columns_normalized(image_z, text_z, log_scale):
    """The columns get length 1 in place of the rows."""
    scale = log_scale.exp().clamp(max=100)
    return _both_directions(scale * F.normalize(image_z, dim=0) @ F.normalize(text_z, dim=0).T)


def _only_pictures_normalized(image_z, text_z, log_scale):
    """Only the pictures get length 1."""
    return _both_directions(log_scale.exp().clamp(max=100) * F.normalize(image_z) @ text_z.T)


def _summed_over_pairs(image_z, text_z, log_scale):
    """The loss is summed over the N pairs in place of averaged."""
    return len(image_z) * symmetric_loss(image_z, text_z, log_scale)


def _among_all_views(image_z, text_z, log_scale):
    """Each row is compared with the rows of its own kind as well, as in SimCLR."""
    z = torch.cat([F.normalize(image_z), F.normalize(text_z)])
    scores = log_scale.exp().clamp(max=100) * z @ z.T
    scores = scores.masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
    partner = torch.arange(len(z)).roll(len(image_z))
    return F.cross_entropy(scores, partner)


def _sigmoid_loss(image_z, text_z, log_scale):
    """Each of the N x N pairs is judged alone, right or wrong, with no softmax over candidates."""
    scores = _scores(image_z, text_z, log_scale.exp().clamp(max=100))
    return F.binary_cross_entropy_with_logits(scores, torch.eye(len(scores)))


LOSS = Exercise(
    solution=symmetric_loss,
    cases=_loss_cases,
    difficulty=2,
    minutes=10,
    gradient_of=(0, 1, 2),
    tolerance=1e-3,
    hints=(
        "Give every row length 1; scores = scale * image_z @ text_z.T has the right pairs on its "
        "diagonal.",
        "Row i: which text belongs to picture i? Column i: which picture belongs to text i? "
        "Average the two.",
        "scale = log_scale.exp().clamp(max=100). Keep it a tensor: .item() would cut its gradient.",
    ),
    wrong={
        "picture to text only": _picture_to_text_only,
        "text to picture only": _text_to_picture_only,
        "sum in place of mean": _sum_of_both,
        "no normalization": _clip_not_normalized,
        "the logarithm as the scale": _logarithm_as_scale,
        "divided by the scale": _divided_by_scale,
        "not clamped": _not_clamped,
        "temperature without gradient": _scale_without_gradient,
        "text without gradient": _text_without_gradient,
        "columns normalized": _columns_normalized,
        "only the pictures normalized": _only_pictures_normalized,
        "summed over the pairs": _summed_over_pairs,
        "among all 2N rows": _among_all_views,
        "sigmoid in place of softmax": _sigmoid_loss,
    },
    alternatives=(
        _loss_by_loop,
        _loss_by_log_softmax,
        _loss_in_float64,
        _loss_by_one_hot,
        _loss_by_python_min,
        _loss_of_shape_1,
        _loss_by_nll,
    ),
)


# --- breaking_prompts -------------------------------------------------------------------------


def breaking_prompts(encode, pictures, labels, class_names):
    """Prompts, one a class, each with its own class name, that at least halve zero-shot accuracy.

    encode: a function, list of n texts -> (n, d) float32, rows of length 1; here a bag of words,
    the mean of its words' vectors. It knows the class names and "a", "not", "photo", "of".
    pictures: (N, d) float32, rows of length 1; labels: (N,) int64; class_names: list of C texts.
    A picture gets the class whose prompt is nearest, and the accuracy is halved against prompts
    that are the bare class names. Returns a list of C texts.
    """
    prompts = []
    for i, name in enumerate(class_names):
        next_name = class_names[(i + 1) % len(class_names)]
        # A bag of words does not know what "not" belongs to.
        prompts.append(f"a {name} not a {next_name} {next_name}")
    return prompts


_NOUNS = ("circle", "square", "star", "heart", "moon", "arrow")
_OTHER_WORDS = ("a", "not", "photo", "of")


def _words(prompts):
    """All words of some prompts, each once."""
    return {word for prompt in prompts for word in prompt.split()}


def _bag_of_words(table):
    """An encoder of texts: the mean of the words' vectors in the table, of length 1."""

    def encode(prompts):
        if not isinstance(prompts, (list, tuple)) or not prompts:
            raise ValueError("prompts: expected a list of texts, found none")
        unknown = sorted(_words(prompts) - set(table))
        if unknown:
            raise ValueError(f"unknown words {unknown}: expected words among {', '.join(table)}")
        means = []
        for prompt in prompts:
            vectors = [table[word] for word in prompt.split()]
            means.append(torch.stack(vectors).mean(0))
        return F.normalize(torch.stack(means), dim=1)

    return encode


def _prompt_cases(generator: torch.Generator) -> dict[str, tuple]:
    d = 16

    def world(classes, n, noise):
        class_names = list(_NOUNS[:classes])
        # Class names stand apart from each other, as after training; the other words say little.
        vectors, _ = torch.linalg.qr(torch.randn(d, d, generator=generator))
        table = dict(zip([*class_names, *_OTHER_WORDS], vectors, strict=False))
        for word in _OTHER_WORDS:
            table[word] = 0.1 * table[word]
        labels = torch.arange(n) % classes
        pictures = vectors[labels] + noise * torch.randn(n, d, generator=generator)
        return _bag_of_words(table), F.normalize(pictures, dim=1), labels, class_names

    return {
        "six classes": world(6, 60, 0.1),
        "three classes": world(3, 30, 0.1),
        "two classes": world(2, 20, 0.05),
        "noisy pictures": world(5, 100, 0.2),
    }


def _accuracy(encode, prompts, pictures, labels):
    """Zero-shot accuracy, a fraction."""
    classes = (pictures @ encode(prompts).T).argmax(1)
    return (classes == labels).float().mean().item()


def _prompt_judge(answer, _, encode, pictures, labels, class_names):
    """Any prompts will do that keep the rules and halve the accuracy."""
    if not isinstance(answer, (list, tuple)):
        return f"expected a list of texts, found {kind(answer)}"
    for prompt in answer:
        if not isinstance(prompt, str):
            return f"expected a list of texts, found {kind(prompt)} in it"
    if len(answer) != len(class_names):
        return f"expected {len(class_names)} prompts, one a class, found {len(answer)}"
    for prompt, name in zip(answer, class_names, strict=True):
        if name not in prompt.split():
            return f"expected the word {name!r} in the prompt of its class, found {prompt[:60]!r}"
    unknown = sorted(_words(answer) - {*class_names, *_OTHER_WORDS})
    if unknown:
        listed = ", ".join(repr(word) for word in unknown)
        return f"expected words that the encoder knows, found {listed[:60]}"

    bare = _accuracy(encode, list(class_names), pictures, labels)
    broken = _accuracy(encode, list(answer), pictures, labels)
    if broken > bare / 2:
        return (
            f"expected an accuracy of {bare / 2:.0%} or less (half of the bare names' "
            f"{bare:.0%}), found {broken:.0%} with prompts from {answer[0][:40]!r} to "
            f"{answer[-1][:40]!r}"
        )
    return None


def _prompts_of_all_others(encode, pictures, labels, class_names):
    """Every other name three times, then the class's own."""
    prompts = []
    for name in class_names:
        words = []
        for other in class_names:
            if other != name:
                words += [other] * 3
        prompts.append(" ".join([*words, name]))
    return prompts


def _prompts_by_search(encode, pictures, labels, class_names):
    """Try for each class every other name, and keep what hurts most."""
    prompts = list(class_names)
    for i, name in enumerate(class_names):
        lowest = float("inf")
        for other in class_names:
            if other == name:
                continue
            tried = [*prompts[:i], f"{name} {other} {other}", *prompts[i + 1 :]]
            accuracy = _accuracy(encode, tried, pictures, labels)
            if accuracy < lowest:
                lowest = accuracy
                best = tried
        prompts = best
    if _accuracy(encode, prompts, pictures, labels) < 0.2:
        return prompts
    return _prompts_of_all_others(encode, pictures, labels, class_names)


def _the_same_prompt_for_all(encode, pictures, labels, class_names):
    """With all names in every prompt each picture gets the first class."""
    return [" ".join(class_names)] * len(class_names)


def _prompts_by_concatenation(encode, pictures, labels, class_names):
    prompts = ()
    for before, name in zip([class_names[-1], *class_names[:-1]], class_names, strict=True):
        prompts += ("photo of " + 5 * (before + " ") + name,)
    return prompts


def _prompts_by_nearest_texts(encode, pictures, labels, class_names):
    """Copies of the next name are added until another class's picture is nearest to the prompt."""
    bare = encode(list(class_names))
    prompts = []
    for i, name in enumerate(class_names):
        prompt = name
        while (encode([prompt]) @ bare.T).argmax() == i or prompt.count(" ") < 4:
            prompt += " " + class_names[(i + 1) % len(class_names)]
        prompts.append(prompt)
    return prompts


def _prompts_from_a_generator(encode, pictures, labels, class_names):
    count = len(class_names)
    for i in range(count):
        lure = class_names[i - 1]
        yield f"a photo of a {lure} {lure} {lure} not a {class_names[i]}"


def _bare_names(encode, pictures, labels, class_names):
    """These prompts are the bare names, with which the accuracy is compared."""
    return list(class_names)


def _usual_template(encode, pictures, labels, class_names):
    """The words around the name say the same for each class."""
    return [f"a photo of a {name}" for name in class_names]


def _negation(encode, pictures, labels, class_names):
    """The word "not" adds the same small vector to every prompt: it negates nothing."""
    return [f"not a {name}" for name in class_names]


def _names_of_others(encode, pictures, labels, class_names):
    """Each prompt is another class's name, without the name of its own class."""
    return [*class_names[1:], class_names[0]]


def _unknown_words(encode, pictures, labels, class_names):
    """One of the words is unknown to the encoder."""
    return [f"{name} banana" for name in class_names]


def _one_prompt_missing(encode, pictures, labels, class_names):
    """The last class has no prompt."""
    return breaking_prompts(encode, pictures, labels, class_names)[:-1]


def _one_text(encode, pictures, labels, class_names):
    """The answer is one text in place of a list with a text for each class."""
    return " ".join(class_names)


def _one_class_broken(encode, pictures, labels, class_names):
    """Only one of the prompts is changed, which is too few."""
    prompts = list(class_names)
    if len(class_names) > 2:
        prompts[0] = f"{class_names[0]} {class_names[1]} {class_names[1]}"
    return prompts


def _one_lure_for_all(encode, pictures, labels, class_names):
    """All prompts lean toward the same class, so most pictures still find their own name."""
    prompts = [f"{name} {(class_names[0] + ' ') * 3}" for name in class_names]
    prompts[0] = class_names[0]
    return prompts


def _own_name_twice(encode, pictures, labels, class_names):
    """All names stand in every prompt, and its own stands there twice: it is still the nearest."""
    return [" ".join([*class_names, name]) for name in class_names]


def _many_empty_words(encode, pictures, labels, class_names):
    """Many words around the name, but the same ones for each class."""
    return [f"{name}" + " photo" * 40 for name in class_names]


def _words_in_lists(encode, pictures, labels, class_names):
    """Each prompt is a list of words in place of one text."""
    return [prompt.split() for prompt in breaking_prompts(encode, None, None, class_names)]


def _prompts_by_name(encode, pictures, labels, class_names):
    """The answer is a dict in place of a list of texts."""
    prompts = breaking_prompts(encode, pictures, labels, class_names)
    return dict(zip(class_names, prompts, strict=True))


PROMPTS = Exercise(
    solution=breaking_prompts,
    cases=_prompt_cases,
    difficulty=1,
    minutes=5,
    judge=_prompt_judge,
    hints=(
        "The encoder averages the vectors of the words. Which word would pull the average to "
        "another class?",
        "A name that stands twice counts twice. “Not” is one more small vector: it negates "
        "nothing.",
        'For class i use f"{name} {other} {other}", with the next class name as the other.',
    ),
    wrong={
        "bare names": _bare_names,
        "a usual template": _usual_template,
        "a negation": _negation,
        "without its own name": _names_of_others,
        "unknown words": _unknown_words,
        "too few": _one_prompt_missing,
        "one text": _one_text,
        "only one class broken": _one_class_broken,
        "one lure for all": _one_lure_for_all,
        "its own name twice": _own_name_twice,
        "many empty words": _many_empty_words,
        "lists of words": _words_in_lists,
        "a dict": _prompts_by_name,
    },
    alternatives=(
        _prompts_of_all_others,
        _prompts_by_search,
        _the_same_prompt_for_all,
        _prompts_by_concatenation,
        _prompts_by_nearest_texts,
        _prompts_from_a_generator,
    ),
)

EXERCISES = [CCA, LOSS, PROMPTS]
