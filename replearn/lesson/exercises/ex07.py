"""Exercises of lesson 07: CCA by SVD, CLIP's symmetric loss, prompts that break zero-shot.

Shapes: N pairs or pictures; P and Q columns of two views; d numbers in an embedding; C classes.
"""

import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise

# --- cca_by_svd -------------------------------------------------------------------------------


def cca_by_svd(x, y):
    """Canonical correlations (Hotelling 1936), the largest first.

    They are the singular values of S_xx^-1/2 S_xy S_yy^-1/2, S the covariances of centered views.
    x: (N, P), y: (N, Q), independent columns, N > P, Q. Returns (min(P, Q),) numbers.
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
        return columns @ noise(d, d)

    def views(n, p, q, shared, mean=0.0):
        causes = noise(n, shared)
        x = view(causes, p)
        y = view(causes, q)
        return x + mean, y - mean

    x, y = views(80, 4, 4, 2)
    return {
        "two shared causes": views(100, 5, 3, 2),
        "columns of very different scale": (x * torch.tensor([0.01, 1, 10, 30]), y),
        "means far from zero": views(60, 3, 4, 1, mean=5.0),
        "one column each (the absolute value of Pearson's correlation)": views(50, 1, 1, 1),
        "a view and a mixture of it (correlations 1)": (x, x @ noise(4, 4)),
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


def _cca_no_whitening(x, y):
    """Singular values of the covariance between the views."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    return torch.linalg.svdvals(x.T @ y / (len(x) - 1))


def _cca_unit_variance(x, y):
    """Each column gets variance 1, but the columns of a view stay correlated."""
    x = x - x.mean(0)
    y = y - y.mean(0)
    x = x / x.std(0)
    y = y / y.std(0)
    return torch.linalg.svdvals(x.T @ y / (len(x) - 1))


def _cca_not_centered(x, y):
    """The means count as something that the views share."""
    return torch.linalg.svdvals(torch.linalg.qr(x)[0].T @ torch.linalg.qr(y)[0])


def _cca_squared(x, y):
    """Squared correlations, as the eigenvalues of the textbook route are."""
    return cca_by_svd(x, y) ** 2


def _cca_first_only(x, y):
    """The largest correlation everywhere."""
    return cca_by_svd(x, y)[:1].repeat(min(x.shape[1], y.shape[1]))


def _cca_smallest_first(x, y):
    """In rising order, and 0.01 lower, so that a view of one column is wrong as well."""
    return cca_by_svd(x, y).flip(0) - 1e-2


def _cca_column_by_column(x, y):
    """Correlations of column i with column i: no direction is looked for."""
    k = min(x.shape[1], y.shape[1])
    x = F.normalize(x - x.mean(0), dim=0)[:, :k]
    y = F.normalize(y - y.mean(0), dim=0)[:, :k]
    return (x * y).sum(0).abs().sort(descending=True).values


CCA = Exercise(
    solution=cca_by_svd,
    cases=_cca_cases,
    difficulty=2,
    minutes=15,
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
    },
    alternatives=(_cca_by_eigenvalues, _cca_by_cholesky),
)


# --- symmetric_loss ---------------------------------------------------------------------------


def symmetric_loss(image_z, text_z, log_scale):
    """CLIP's loss (Radford et al. 2021, Fig. 3): the mean of the losses in both directions.

    They are the cross-entropies picture to text and text to picture. The scores are the cosine
    times exp(log_scale), that factor never above 100. image_z, text_z: (N, d), row i of both a
    pair, any length. log_scale: one number, learned, so it gets a gradient too. Returns one number
    (nats).
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


def _scores(image_z, text_z, scale):
    """Cosines times a scale, (N, N): rows pictures, columns texts."""
    return scale * F.normalize(image_z) @ F.normalize(text_z).T


def _to_partner(scores):
    """Cross-entropy over the rows, with the diagonal as the right answer."""
    return F.cross_entropy(scores, torch.arange(len(scores)))


def _both_directions(scores):
    return 0.5 * _to_partner(scores) + 0.5 * _to_partner(scores.T)


def _picture_to_text_only(image_z, text_z, log_scale):
    """Each picture looks for its text, and no text for its picture."""
    return _to_partner(_scores(image_z, text_z, log_scale.exp().clamp(max=100)))


def _text_to_picture_only(image_z, text_z, log_scale):
    """Each text looks for its picture, and no picture for its text."""
    return _to_partner(_scores(image_z, text_z, log_scale.exp().clamp(max=100)).T)


def _sum_of_both(image_z, text_z, log_scale):
    """Twice too large."""
    return 2 * symmetric_loss(image_z, text_z, log_scale)


def _clip_not_normalized(image_z, text_z, log_scale):
    """Dot products in place of cosines."""
    scale = log_scale.exp().clamp(max=100)
    return _both_directions(scale * image_z @ text_z.T)


def _logarithm_as_scale(image_z, text_z, log_scale):
    """exp is forgotten."""
    return _both_directions(_scores(image_z, text_z, log_scale))


def _divided_by_scale(image_z, text_z, log_scale):
    """The scale taken for a temperature."""
    return _both_directions(_scores(image_z, text_z, (-log_scale).exp()))


def _not_clamped(image_z, text_z, log_scale):
    """The scale may grow beyond 100."""
    return _both_directions(_scores(image_z, text_z, log_scale.exp()))


def _scale_without_gradient(image_z, text_z, log_scale):
    """The right value, but the temperature could not be learned."""
    return symmetric_loss(image_z, text_z, log_scale.detach())


def _text_without_gradient(image_z, text_z, log_scale):
    """The right value, but the text encoder could not be learned."""
    return symmetric_loss(image_z, text_z.detach(), log_scale)


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
    },
    alternatives=(_loss_by_loop, _loss_by_log_softmax),
)


# --- breaking_prompts -------------------------------------------------------------------------


def breaking_prompts(encode, pictures, labels, class_names):
    """Prompts, one a class, each with its own class name, that at least halve zero-shot accuracy.

    encode: list of known words in texts -> (n, d) unit vectors; here a bag of words, the mean of
    its words' vectors. Known: the class names and "a", "not", "photo", "of". pictures: (N, d) unit
    vectors, labels (N,). A picture gets the class whose prompt is nearest; halved: against the
    prompts that are the bare class names. Returns C texts.
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
    is_list = isinstance(answer, (list, tuple))
    if not is_list or not all(isinstance(prompt, str) for prompt in answer):
        return f"expected a list of texts, found a {type(answer).__name__}"
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
            f"{bare:.0%}), found {broken:.0%}"
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


def _bare_names(encode, pictures, labels, class_names):
    """What the accuracy is compared with."""
    return list(class_names)


def _usual_template(encode, pictures, labels, class_names):
    """The words around the name say little, and say the same for each class."""
    return [f"a photo of a {name}" for name in class_names]


def _negation(encode, pictures, labels, class_names):
    """The word "not" is one more small vector: it negates nothing."""
    return [f"not a {name}" for name in class_names]


def _names_of_others(encode, pictures, labels, class_names):
    """Each prompt is another class's name, without its own."""
    return [*class_names[1:], class_names[0]]


def _unknown_words(encode, pictures, labels, class_names):
    """A word that the encoder has never seen."""
    return [f"{name} banana" for name in class_names]


def _one_prompt_missing(encode, pictures, labels, class_names):
    """The last class has no prompt."""
    return breaking_prompts(encode, pictures, labels, class_names)[:-1]


def _one_text(encode, pictures, labels, class_names):
    """One text in place of a list."""
    return " ".join(class_names)


def _one_class_broken(encode, pictures, labels, class_names):
    """Only the first class is misled, which is too little (of two classes it would be half)."""
    prompts = list(class_names)
    if len(class_names) > 2:
        prompts[0] = f"{class_names[0]} {class_names[1]} {class_names[1]}"
    return prompts


PROMPTS = Exercise(
    solution=breaking_prompts,
    cases=_prompt_cases,
    difficulty=1,
    minutes=10,
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
    },
    alternatives=(_prompts_of_all_others, _prompts_by_search),
)

EXERCISES = [CCA, LOSS, PROMPTS]
