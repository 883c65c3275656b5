"""Models whose answer is known (a linear VAE, ICA, the iVAE), schedules, and training in two processes."""

import functools
import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from references import normal
from replearn import losses, metrics, train

MIXINGS = 5


def digits_pca(seed):
    """1,000 of scikit-learn's digits, centered (1000, 64), and their probabilistic PCA with 8 components."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    x = torch.tensor(load_digits().data) / 16
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:1000]]
    x = x - x.mean(0)
    return x, PCA(8).fit(x.numpy())


def linear_elbo(x, w, v, logvar, log_s2):
    """The ELBO in nats a row of centered x: decoder W z with noise s2, encoder N(V x, e^logvar)."""
    mu = x @ v.T
    error = (x - mu @ w.T).square().sum(1) + (logvar.exp() * w.square().sum(0)).sum()
    log_p = -(error / log_s2.exp() + x.shape[1] * (math.log(2 * math.pi) + log_s2)) / 2
    return (log_p - losses.kl_normal(mu, logvar.expand_as(mu))).mean()


def known_optimum(pca, turn):
    """W, V, logvar, log s2 of probabilistic PCA, its latents turned; the posterior's covariance cut to its diagonal."""
    s2, lam = pca.noise_variance_, torch.tensor(pca.explained_variance_)
    w = torch.tensor(pca.components_).T * (lam - s2).sqrt()
    precision = turn.T @ torch.diag(lam) @ turn / s2
    return w @ turn, (w / lam @ turn).T, -precision.diagonal().log(), torch.tensor(s2).log()


def elbo_ppca(seed):
    x, pca = digits_pca(seed)
    turn = torch.linalg.qr(normal(seed, 1, 8, 8)[0])[0]
    elbo = lambda turn: linear_elbo(x, *known_optimum(pca, turn))
    return elbo(torch.eye(8).double()), pca.score(x.numpy()), elbo(turn)


def elbo_trained(seed, steps=600):
    x, pca = digits_pca(seed)
    root = (
        torch.linalg.qr(x, mode="r")[1] * (64 / len(x)) ** 0.5
    )  # 64 rows of the same covariance: the same ELBO
    values = [*(0.1 * normal(seed, 2, 64, 8)), torch.zeros(8).double(), torch.tensor(-3.0).double()]
    values[1] = values[1].T.clone()
    adam = torch.optim.Adam([v.requires_grad_() for v in values], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        loss = -linear_elbo(root, *values)
        loss.backward()
        adam.step()
        schedule.step()
    fewer = digits_pca(seed)[1].set_params(n_components=7).fit(x.numpy())
    return linear_elbo(x, *values).item(), pca.score(x.numpy()), fewer.score(x.numpy())


def fast_ica(seed):
    import warnings

    from sklearn.decomposition import FastICA

    def mean_mcc(sources):
        values = []
        for s, mixing in zip(sources, normal(seed + 100, 10, 4, 4), strict=True):
            x = (s @ torch.linalg.qr(mixing)[0] * torch.tensor([1.0, 2, 1, 2])).numpy()
            values.append(
                metrics.mcc(torch.from_numpy(FastICA(4, random_state=0).fit_transform(x)), s)
            )
        return sum(values) / len(values)

    g = normal(seed, 10, 3000, 4)
    laplace = (
        torch.special.ndtr(g).mul(2).sub(1)
    )  # uniform in (-1, 1), then Laplace by its quantile function
    laplace = -laplace.sign() * torch.log1p(-laplace.abs())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # normal factors have no optimum
        return mean_mcc(laplace), 1, mean_mcc(g)


class MLPs(nn.Module):
    """Small networks side by side: (runs, N, a) -> (runs, N, b)."""

    def __init__(self, runs, *sizes):
        super().__init__()
        pairs = list(itertools.pairwise(sizes))
        self.w = nn.ParameterList([torch.randn(runs, a, b) * (2 / a) ** 0.5 for a, b in pairs])
        self.b = nn.ParameterList([torch.zeros(runs, 1, b) for _, b in pairs])

    def forward(self, x):
        for i, (w, b) in enumerate(zip(self.w, self.b, strict=True)):
            x = torch.baddbmm(b, F.leaky_relu(x, 0.2) if i else x, w)
        return x


def mixture(seed, n=50_000, segments=40):
    """Two factors (n, 2) whose variances differ by segment, their mixture (n, 4), and the segments (n,): lesson 08."""
    g = torch.Generator().manual_seed(seed)
    std, u = 0.2 + 1.8 * torch.rand(segments, 2, generator=g), torch.arange(n) % segments
    z = std[u] * torch.randn(n, 2, generator=g)
    x = z @ torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / 2**0.5 * torch.tensor([1.0, 0.6])
    for layer in range(3):
        w = torch.linalg.qr(torch.randn(4, 4, generator=g))[0]
        x = (F.leaky_relu(x, 0.5) if layer else x) @ w[: x.shape[1]]
    return z, x / x.std() + 0.1 * torch.randn(x.shape, generator=g), u


def train_ivae(x, u, steps, segments=40, hidden=64):
    """Train one iVAE for each row of x (runs, N, 4), u (runs, N); return the function to posterior means."""
    encoder, decoder = (
        MLPs(len(x), 4 + segments, hidden, hidden, 4),
        MLPs(len(x), 2, hidden, hidden, 4),
    )
    prior, log_noise = (
        nn.Parameter(torch.zeros(len(x), segments, 4)),
        nn.Parameter(torch.zeros(len(x), 1, 1)),
    )
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), prior, log_noise], 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-2, steps, pct_start=0.05)
    q = lambda x, u: encoder(torch.cat([x, u], -1)).chunk(2, -1)
    for _ in range(steps):
        rows = torch.randint(x.shape[1], (250,))
        some, aux = x[:, rows], F.one_hot(u[:, rows], segments).float()
        (mu, logvar), p = q(some, aux), (aux @ prior).chunk(2, -1)
        error = (some - decoder(mu + (logvar / 2).exp() * torch.randn_like(mu))) / log_noise.exp()
        kl = losses.kl_normal(*(v.flatten(0, 1) for v in (mu, logvar, *p)))
        loss = (error.square() / 2 + log_noise).sum() + kl.sum()
        adam.zero_grad()
        (loss / len(rows)).backward()
        adam.step()
        schedule.step()
    return torch.no_grad()(lambda x, u: q(x, F.one_hot(u, segments).float())[0])


@functools.cache
def ivae_scores(steps=1600, fit=40_000):
    """Held-out MCC (MIXINGS,) with the side information u, without it (a VAE), with u dealt at random; of noise."""
    z, x, u = (torch.stack(part) for part in zip(*map(mixture, range(MIXINGS)), strict=True))
    torch.manual_seed(0)
    dealt = u[:, torch.randperm(u.shape[1])]
    x3, aux = x.repeat(3, 1, 1), torch.cat([u, 0 * u, dealt])
    means = train_ivae(x3[:, :fit], aux[:, :fit], steps)(x3[:, fit:], aux[:, fit:])
    latents = dict(
        zip(("with u", "without u", "u dealt at random"), means.split(MIXINGS), strict=True)
    )
    latents["noise"] = torch.randn_like(latents["with u"])
    truth = z[:, fit:]
    return {name: sum(map(metrics.mcc, a, truth)) / MIXINGS for name, a in latents.items()}


def ivae(fault):
    return lambda seed: (ivae_scores()["with u"], 1, ivae_scores()[fault])


def cosine_schedule(seed):
    steps = range(0, 101, 5)
    found = [train.cosine(s, 100, start=0.3, end=0.01) for s in steps]
    expected = [0.01 + 0.29 * (1 + math.cos(math.pi * s / 100)) / 2 for s in steps]
    late = [
        train.cosine(s, 101, start=0.3, end=0.01) for s in steps
    ]  # a schedule that does not arrive
    return found, expected, late


def ema_endpoints(seed):
    def moved(momentum, steps=7):
        target, online = (nn.Linear(3, 2).double() for _ in range(2))
        for net, values in zip((target, online), normal(seed, 2, 8), strict=True):
            nn.utils.vector_to_parameters(values, net.parameters())
        for _ in range(steps):
            train.ema_update(target, online, momentum=momentum)
        return nn.utils.parameters_to_vector(target.parameters()).detach()

    a, b = normal(seed, 2, 8)
    known = [m**7 * a + (1 - m**7) * b for m in (0.0, 0.9, 1.0)]
    return (
        torch.cat([moved(m) for m in (0.0, 0.9, 1.0)]),
        torch.cat(known),
        torch.cat([moved(1 - m) for m in (0.0, 0.9, 1.0)]),
    )


ROWS = [
    dict(
        check=elbo_ppca,
        quantity="ELBO of a linear VAE at its optimum, nats",
        lesson="05",
        allowed=1e-6,
        fault="latents rotated",
        reference="PCA.score, probabilistic PCA on digits",
        peer="scikit-learn",
    ),
    dict(
        check=elbo_trained,
        quantity="ELBO of a linear VAE after 600 steps of Adam, nats",
        lesson="05",
        allowed=0.1,
        fault="one component fewer",
        reference="PCA.score, probabilistic PCA on digits",
        peer="scikit-learn",
    ),
    dict(
        check=fast_ica,
        quantity="MCC of linear ICA (FastICA), mean of ten mixtures",
        lesson="08",
        allowed=0.05,
        fault="normal factors",
        reference="identifiable: 1",
        peer="scikit-learn",
    ),
    *(
        dict(
            check=ivae(fault),
            quantity="MCC of the iVAE, mean of five mixtures",
            lesson="08",
            allowed=0.1,
            fault=fault,
            reference="identifiable: 1, Khemakhem et al. 2020, Theorem 3",
            seeds=1,
            slow=True,
        )
        for fault in ("without u", "u dealt at random", "noise")
    ),
    dict(
        check=cosine_schedule,
        quantity="cosine schedule, step 0 to the last",
        lesson="12",
        allowed=1e-12,
        fault="one step late",
        reference="closed form: (1 + cos(pi t / T)) / 2",
        seeds=1,
    ),
    dict(
        check=ema_endpoints,
        quantity="moving average after 7 steps, momentum 0, 0.9, 1",
        lesson="06, 10",
        allowed=1e-9,
        fault="momentum and 1 - momentum exchanged",
        reference="closed form: m^7 a + (1 - m^7) b",
    ),
]
