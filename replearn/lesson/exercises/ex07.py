"""Exercises of lesson 07: CCA by SVD, CLIP's symmetric loss, prompts that break zero-shot classification."""

import torch
import torch.nn.functional as F

from replearn.lesson.exercises import Exercise


def cca_by_svd(x, y):
    """Canonical correlations (Hotelling 1936): singular values of S_xx^-1/2 S_xy S_yy^-1/2, the largest first.

    S: covariances of centered views. x: (N, P), y: (N, Q), independent columns, N > P, Q. Returns (min(P, Q),) numbers.
    """
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    u_x, _, _ = torch.linalg.svd(
        x, full_matrices=False
    )  # x = U S V^T, and U = x V S^-1 is x whitened
    u_y, _, _ = torch.linalg.svd(y, full_matrices=False)
    return torch.linalg.svdvals(u_x.T @ u_y)  # the cross-covariance of the whitened views


def _cca_cases(generator):
    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    def views(n, p, q, shared, mean=0.0):
        s = noise(n, shared)
        x, y = (
            torch.cat([s + 0.7 * noise(n, shared), noise(n, d - shared)], 1) @ noise(d, d)
            for d in (p, q)
        )
        return x + mean, y - mean

    x, y = views(80, 4, 4, 2)
    return {
        "two shared causes": views(100, 5, 3, 2),
        "columns of very different scale": (x * torch.tensor([0.01, 1, 10, 30]), y),
        "means far from zero": views(60, 3, 4, 1, mean=5.0),
        "one column each (the absolute value of Pearson's correlation)": views(50, 1, 1, 1),
        "a view and a mixture of it (correlations 1)": (x, x @ noise(4, 4)),
    }


def _cca_eigen(x, y):
    """The route of most textbooks: the squared correlations are eigenvalues of S_xx^-1 S_xy S_yy^-1 S_yx."""
    x, y = (x - x.mean(0)).double(), (y - y.mean(0)).double()
    product = torch.linalg.solve(x.T @ x, x.T @ y) @ torch.linalg.solve(y.T @ y, y.T @ x)
    squares = torch.linalg.eigvals(product).real.sort(descending=True)[0].clamp(0, 1)
    return squares[: min(x.shape[1], y.shape[1])].sqrt()


def _cca_cholesky(x, y):
    x, y = (x - x.mean(0)).double(), (y - y.mean(0)).double()
    z = [
        torch.linalg.solve_triangular(torch.linalg.cholesky(v.T @ v), v.T, upper=False)
        for v in (x, y)
    ]
    return torch.linalg.svdvals(z[0] @ z[1].T).clamp(max=1)


def _no_whitening(x, y, scale=lambda v: v / v.std(0)):
    x, y = (scale(v - v.mean(0)) for v in (x, y))
    return torch.linalg.svdvals(x.T @ y / (len(x) - 1))


def _not_centered(x, y):
    return torch.linalg.svdvals(torch.linalg.qr(x)[0].T @ torch.linalg.qr(y)[0])


def _column_by_column(x, y):
    k = min(x.shape[1], y.shape[1])
    x, y = (F.normalize(v - v.mean(0), dim=0)[:, :k] for v in (x, y))
    return (x * y).sum(0).abs().sort(descending=True)[0]


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
        "no whitening": lambda x, y: _no_whitening(x, y, scale=lambda v: v),
        "each column to unit variance only": _no_whitening,
        "not centered": _not_centered,
        "squared": lambda x, y: cca_by_svd(x, y) ** 2,
        "the first only": lambda x, y: cca_by_svd(x, y)[:1].repeat(min(x.shape[1], y.shape[1])),
        "the smallest first": lambda x, y: cca_by_svd(x, y).flip(0) - 1e-2,
        "column by column": _column_by_column,
    },
    alternatives=(_cca_eigen, _cca_cholesky),
)


def symmetric_loss(image_z, text_z, log_scale):
    """CLIP's loss (Radford et al. 2021, Fig. 3): mean of the cross-entropies picture to text and text to picture.

    Scores: cosine times exp(log_scale), that factor never above 100. image_z, text_z: (N, d), row i of both a pair, any
    length. log_scale: one number, learned, so it gets a gradient too. Returns one number (nats).
    """
    scale = log_scale.exp().clamp(max=100)
    scores = scale * F.normalize(image_z, dim=1) @ F.normalize(text_z, dim=1).T  # (N, N)
    partner = torch.arange(len(scores))
    return (F.cross_entropy(scores, partner) + F.cross_entropy(scores.T, partner)) / 2


def _loss_cases(generator):
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


def _loss_loop(image_z, text_z, log_scale):
    scale, n, total = torch.minimum(log_scale.exp(), torch.tensor(100.0)), len(image_z), 0.0
    a, b = ([row / row.norm() for row in z] for z in (image_z, text_z))
    for i in range(n):
        for one, many in ((a[i], b), (b[i], a)):
            scores = scale * torch.stack([one @ other for other in many])
            total = total + torch.logsumexp(scores, 0) - scores[i]
    return total / (2 * n)


def _loss_log_softmax(image_z, text_z, log_scale):
    s = F.cosine_similarity(image_z[:, None], text_z[None], dim=2) * log_scale.exp().clamp(max=100)
    return -(s.log_softmax(1).diagonal() + s.log_softmax(0).diagonal()).mean() / 2


def _wrong_loss(norm=F.normalize, scale=lambda s: s.exp().clamp(max=100), weights=(0.5, 0.5)):
    def wrong(image_z, text_z, log_scale):
        scores = scale(log_scale) * norm(image_z) @ norm(text_z).T
        partner = torch.arange(len(scores))
        return sum(
            w * F.cross_entropy(s, partner)
            for w, s in zip(weights, (scores, scores.T), strict=True)
        )

    return wrong


LOSS = Exercise(
    solution=symmetric_loss,
    cases=_loss_cases,
    difficulty=2,
    minutes=10,
    gradient_of=(0, 1, 2),
    tolerance=1e-3,
    hints=(
        "Give every row length 1; scores = scale * image_z @ text_z.T has the right pairs on its diagonal.",
        "Row i: which text belongs to picture i? Column i: which picture belongs to text i? Average the two.",
        "scale = log_scale.exp().clamp(max=100). Keep it a tensor: .item() would cut its gradient.",
    ),
    wrong={
        "picture to text only": _wrong_loss(weights=(1, 0)),
        "text to picture only": _wrong_loss(weights=(0, 1)),
        "sum in place of mean": _wrong_loss(weights=(1, 1)),
        "no normalization": _wrong_loss(norm=lambda z: z),
        "the logarithm as the scale": _wrong_loss(scale=lambda s: s),
        "divided by the scale": _wrong_loss(scale=lambda s: (-s).exp()),
        "not clamped": _wrong_loss(scale=torch.exp),
        "temperature without gradient": _wrong_loss(
            scale=lambda s: s.detach().exp().clamp(max=100)
        ),
        "text without gradient": lambda i, t, s: symmetric_loss(i, t.detach(), s),
    },
    alternatives=(_loss_loop, _loss_log_softmax),
)


def breaking_prompts(encode, pictures, labels, class_names):
    """Prompts, one a class, each with its own class name in it, that at least halve zero-shot accuracy.

    encode: list of known words in texts -> (n, d) unit vectors; here a bag of words, the mean of its words' vectors.
    Known: the class names and "a", "not", "photo", "of". pictures: (N, d) unit vectors, labels (N,). A picture gets the
    class whose prompt is nearest; halved: against the prompts that are the bare class names. Returns C texts.
    """
    prompts = []
    for i, name in enumerate(class_names):
        next_name = class_names[(i + 1) % len(class_names)]
        prompts.append(
            f"a {name} not a {next_name} {next_name}"
        )  # a bag does not know what "not" belongs to
    return prompts


_NOUNS = ("circle", "square", "star", "heart", "moon", "arrow")
_OTHERS = ("a", "not", "photo", "of")


def _prompt_cases(generator):
    def world(classes, n, noise):
        names = list(_NOUNS[:classes])
        # Class names stand apart from each other, as after training; the other words say little.
        d = 16
        vectors, _ = torch.linalg.qr(torch.randn(d, d, generator=generator))
        table = dict(zip([*names, *_OTHERS], vectors, strict=False))
        table.update({word: 0.1 * table[word] for word in _OTHERS})

        def encode(prompts):
            if not isinstance(prompts, (list, tuple)) or not prompts:
                raise ValueError("prompts: expected a list of texts, found none")
            unknown = sorted({word for prompt in prompts for word in prompt.split()} - set(table))
            if unknown:
                raise ValueError(
                    f"unknown words {unknown}: expected words among {', '.join(table)}"
                )
            means = [
                torch.stack([table[word] for word in prompt.split()]).mean(0) for prompt in prompts
            ]
            return F.normalize(torch.stack(means), dim=1)

        labels = torch.arange(n) % classes
        pictures = vectors[labels] + noise * torch.randn(n, d, generator=generator)
        return encode, F.normalize(pictures, dim=1), labels, names

    return {
        "six classes": world(6, 60, 0.1),
        "three classes": world(3, 30, 0.1),
        "two classes": world(2, 20, 0.05),
        "noisy pictures": world(5, 100, 0.2),
    }


def _accuracy(encode, prompts, pictures, labels):
    return ((pictures @ encode(prompts).T).argmax(1) == labels).float().mean().item()


def _prompt_judge(found, _, encode, pictures, labels, class_names):
    if not isinstance(found, (list, tuple)) or not all(isinstance(prompt, str) for prompt in found):
        return f"expected a list of texts, found a {type(found).__name__}"
    if len(found) != len(class_names):
        return f"expected {len(class_names)} prompts, one a class, found {len(found)}"
    for prompt, name in zip(found, class_names, strict=True):
        if name not in prompt.split():
            return f"expected the word {name!r} in the prompt of its class, found {prompt[:60]!r}"
    if unknown := sorted(
        {word for prompt in found for word in prompt.split()} - {*class_names, *_OTHERS}
    ):
        return f"expected words that the encoder knows, found {', '.join(map(repr, unknown))[:60]}"
    plain, now = (
        _accuracy(encode, prompts, pictures, labels) for prompts in (list(class_names), list(found))
    )
    if now > plain / 2:
        return f"expected an accuracy of {plain / 2:.0%} or less (half of the bare names' {plain:.0%}), found {now:.0%}"
    return None


def _all_but_own(encode, pictures, labels, class_names):
    return [
        " ".join([*(other for other in class_names if other != name for _ in range(3)), name])
        for name in class_names
    ]


def _searched(encode, pictures, labels, class_names):
    """Try for each class every other name, and keep what hurts most."""
    prompts = list(class_names)
    for i, name in enumerate(class_names):
        options = [f"{name} {other} {other}" for other in class_names if other != name]
        prompts[i] = min(
            options,
            key=lambda text: _accuracy(
                encode, [*prompts[:i], text, *prompts[i + 1 :]], pictures, labels
            ),
        )
    return (
        prompts
        if _accuracy(encode, prompts, pictures, labels) < 0.2
        else _all_but_own(encode, pictures, labels, class_names)
    )


PROMPTS = Exercise(
    solution=breaking_prompts,
    cases=_prompt_cases,
    difficulty=1,
    minutes=10,
    judge=_prompt_judge,
    hints=(
        "The encoder averages the vectors of the words. Which word would pull the average to another class?",
        "A name that stands twice counts twice. “Not” is one more small vector: it negates nothing.",
        'For class i use f"{name} {other} {other}", with the next class name as the other.',
    ),
    wrong={
        "bare names": lambda encode, pictures, labels, names: list(names),
        "a usual template": lambda encode, pictures, labels, names: [
            f"a photo of a {name}" for name in names
        ],
        "a negation": lambda encode, pictures, labels, names: [f"not a {name}" for name in names],
        "without its own name": lambda encode, pictures, labels, names: [*names[1:], names[0]],
        "unknown words": lambda encode, pictures, labels, names: [
            f"{name} banana" for name in names
        ],
        "too few": lambda encode, pictures, labels, names: breaking_prompts(
            encode, pictures, labels, names
        )[:-1],
        "one text": lambda encode, pictures, labels, names: " ".join(names),
        "only one class broken": lambda encode, pictures, labels, names: [
            f"{name} {names[1]} {names[1]}" if i == 0 and len(names) > 2 else name
            for i, name in enumerate(names)
        ],
    },
    alternatives=(_all_but_own, _searched),
)

EXERCISES = [CCA, LOSS, PROMPTS]
