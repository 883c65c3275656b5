"""Models whose answer is known (a linear VAE, ICA, the iVAE), and schedules."""

import functools
import itertools
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from references import Compared, Row, normal
from torch import nn

from replearn import losses, metrics, train

# --- a linear VAE
# ----------------------------------------------------------------------------------


class LinearVAE(NamedTuple):
    """Decoder W z with noise of variance s2, encoder N(V x, exp(logvar)); D columns, K latents."""

    w: torch.Tensor  # (D, K)
    v: torch.Tensor  # (K, D)
    logvar: torch.Tensor  # (K,)
    log_s2: torch.Tensor  # ()


def digits_pca(seed: int):
    """Return 1,000 of scikit-learn's digits, centered (1000, 64), and their probabilistic PCA."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    digits = torch.tensor(load_digits().data) / 16
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    x = digits[order[:1000]]
    x = x - x.mean(0)
    return x, PCA(8).fit(x.numpy())


def elbo_of(x: torch.Tensor, vae: LinearVAE) -> torch.Tensor:
    """Return the ELBO in nats a row of centered x."""
    mu = x @ vae.v.T
    reconstruction_error = (x - mu @ vae.w.T).square().sum(1)
    error_of_noise = (vae.logvar.exp() * vae.w.square().sum(0)).sum()
    error = reconstruction_error + error_of_noise
    log_normalizer = x.shape[1] * (math.log(2 * math.pi) + vae.log_s2)
    log_likelihood = -(error / vae.log_s2.exp() + log_normalizer) / 2
    return (log_likelihood - losses.kl_normal(mu, vae.logvar.expand_as(mu))).mean()


def known_optimum(pca, rotation: torch.Tensor) -> LinearVAE:
    """Return probabilistic PCA as a VAE, its latents rotated.

    The encoder's covariance is the posterior's, cut to its diagonal: nothing is lost without a
    rotation, for which the posterior is diagonal.
    """
    s2 = pca.noise_variance_
    variances = torch.tensor(pca.explained_variance_)
    w = torch.tensor(pca.components_).T * (variances - s2).sqrt()
    precision = rotation.T @ torch.diag(variances) @ rotation / s2
    return LinearVAE(
        w=w @ rotation,
        v=(w / variances @ rotation).T,
        logvar=-precision.diagonal().log(),
        log_s2=torch.tensor(s2).log(),
    )


def elbo_ppca(seed: int) -> Compared:
    """At its optimum the ELBO of a linear VAE is the likelihood of probabilistic PCA."""
    x, pca = digits_pca(seed)
    rotation, _ = torch.linalg.qr(normal(seed, 1, 8, 8)[0])
    return Compared(
        ours=elbo_of(x, known_optimum(pca, torch.eye(8).double())),
        expected=pca.score(x.numpy()),
        faulty=elbo_of(x, known_optimum(pca, rotation)),
    )


def elbo_trained(seed: int, steps: int = 600) -> Compared:
    """Trained by gradients, a linear VAE comes near that optimum."""
    x, pca = digits_pca(seed)
    # 64 rows with the covariance of all 1,000 have the same ELBO, and take less time.
    _, triangle = torch.linalg.qr(x, mode="r")
    few_rows = triangle * (64 / len(x)) ** 0.5

    w, v_transposed = 0.1 * normal(seed, 2, 64, 8)
    vae = LinearVAE(
        w=w.clone().requires_grad_(),
        v=v_transposed.T.clone().requires_grad_(),
        logvar=torch.zeros(8).double().requires_grad_(),
        log_s2=torch.tensor(-3.0).double().requires_grad_(),
    )
    optimizer = torch.optim.Adam(vae, lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = -elbo_of(few_rows, vae)
        loss.backward()
        optimizer.step()
        schedule.step()

    _, fewer = digits_pca(seed)
    fewer.set_params(n_components=7).fit(x.numpy())
    return Compared(elbo_of(x, vae).item(), pca.score(x.numpy()), fewer.score(x.numpy()))


# --- ICA
# -------------------------------------------------------------------------------------------


def mean_mcc_of_ica(sources: torch.Tensor, seed: int) -> float:
    """Mix sources (mixtures, N, 4) linearly, recover them by FastICA, return the mean MCC."""
    from sklearn.decomposition import FastICA

    mixing = normal(seed + 100, 10, 4, 4)
    scores = []
    for s, matrix in zip(sources, mixing, strict=True):
        rotation, _ = torch.linalg.qr(matrix)
        x = s @ rotation * torch.tensor([1.0, 2, 1, 2])
        recovered = FastICA(4, random_state=0).fit_transform(x.numpy())
        scores.append(metrics.mcc(torch.from_numpy(recovered), s))
    return sum(scores) / len(scores)


def fast_ica(seed: int) -> Compared:
    """Sources that are not normal can be recovered, normal ones cannot."""
    gaussian = normal(seed, 10, 3000, 4)
    uniform = torch.special.ndtr(gaussian).mul(2).sub(1)  # in (-1, 1)
    laplace = -uniform.sign() * torch.log1p(-uniform.abs())  # by its quantile function
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # normal factors have no optimum
        return Compared(mean_mcc_of_ica(laplace, seed), 1, mean_mcc_of_ica(gaussian, seed))


# --- the iVAE
# --------------------------------------------------------------------------------------

MIXINGS = 5
SEGMENTS = 40
LATENTS = 2
STEPS = 1600
TRAIN_ROWS = 40_000


class MLPs(nn.Module):
    """Small networks side by side: (runs, N, a) -> (runs, N, b)."""

    def __init__(self, runs: int, *sizes: int) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(
            [torch.randn(runs, a, b) * (2 / a) ** 0.5 for a, b in pairs]
        )
        self.biases = nn.ParameterList([torch.zeros(runs, 1, b) for _, b in pairs])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i > 0:
                x = F.leaky_relu(x, 0.2)
            x = torch.baddbmm(bias, x, weight)
        return x


class Mixture(NamedTuple):
    """Data of lesson 08: factors z (N, 2), what is observed x (N, 4), the segment of each row."""

    z: torch.Tensor
    x: torch.Tensor
    segment: torch.Tensor


def mixture(seed: int, n: int = 50_000) -> Mixture:
    """Draw two factors whose variances differ by segment, and mix them by a small network."""
    generator = torch.Generator().manual_seed(seed)
    std = 0.2 + 1.8 * torch.rand(SEGMENTS, 2, generator=generator)
    segment = torch.arange(n) % SEGMENTS
    z = std[segment] * torch.randn(n, 2, generator=generator)
    turned = z @ torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / 2**0.5
    x = turned * torch.tensor([1.0, 0.6])
    for layer in range(3):
        weight, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
        if layer > 0:
            x = F.leaky_relu(x, 0.5)
        x = x @ weight[: x.shape[1]]
    noise = torch.randn(x.shape, generator=generator)
    return Mixture(z, x / x.std() + 0.1 * noise, segment)


def one_hot(segment: torch.Tensor) -> torch.Tensor:
    """Return a segment as a vector (..., SEGMENTS)."""
    return F.one_hot(segment, SEGMENTS).float()


def train_ivae(
    x: torch.Tensor, segment: torch.Tensor, hidden: int = 64, batch_size: int = 250
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Train one iVAE for each row of x (runs, N, 4) and segment (runs, N).

    Returns:
        A function from such tensors to posterior means (runs, N, 2).
    """
    runs, rows_in_all = segment.shape
    encoder = MLPs(runs, 4 + SEGMENTS, hidden, hidden, 2 * LATENTS)
    decoder = MLPs(runs, LATENTS, hidden, hidden, 4)
    prior = nn.Parameter(torch.zeros(runs, SEGMENTS, 2 * LATENTS))
    log_noise = nn.Parameter(torch.zeros(runs, 1, 1))
    parameters = [*encoder.parameters(), *decoder.parameters(), prior, log_noise]
    optimizer = torch.optim.Adam(parameters, 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, STEPS, pct_start=0.05)

    def posterior(x: torch.Tensor, side: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return encoder(torch.cat([x, side], -1)).chunk(2, -1)

    for _ in range(STEPS):
        rows = torch.randint(rows_in_all, (batch_size,))
        batch = x[:, rows]
        side = one_hot(segment[:, rows])
        mu, logvar = posterior(batch, side)
        prior_mu, prior_logvar = (side @ prior).chunk(2, -1)
        z = mu + (logvar / 2).exp() * torch.randn_like(mu)
        error = (batch - decoder(z)) / log_noise.exp()
        normals = [part.flatten(0, 1) for part in (mu, logvar, prior_mu, prior_logvar)]
        kl = losses.kl_normal(*normals)
        loss = (error.square() / 2 + log_noise).sum() + kl.sum()
        optimizer.zero_grad()
        (loss / batch_size).backward()
        optimizer.step()
        schedule.step()

    @torch.no_grad()
    def means(x: torch.Tensor, segment: torch.Tensor) -> torch.Tensor:
        mu, _ = posterior(x, one_hot(segment))
        return mu

    return means


@functools.cache
def ivae_scores() -> dict[str, float]:
    """Return the held-out MCC, a mean over mixtures.

    With the segments as side information; without them, which is a VAE; with segments dealt at
    random; and of noise. All are trained side by side.
    """
    mixtures = [mixture(seed) for seed in range(MIXINGS)]
    z = torch.stack([one.z for one in mixtures])
    x = torch.stack([one.x for one in mixtures])
    segment = torch.stack([one.segment for one in mixtures])

    torch.manual_seed(0)
    dealt = segment[:, torch.randperm(segment.shape[1])]
    side = torch.cat([segment, 0 * segment, dealt])
    x = x.repeat(3, 1, 1)
    means = train_ivae(x[:, :TRAIN_ROWS], side[:, :TRAIN_ROWS])
    with_u, without_u, dealt_u = means(x[:, TRAIN_ROWS:], side[:, TRAIN_ROWS:]).split(MIXINGS)
    latents = {
        "with u": with_u,
        "without u": without_u,
        "u dealt at random": dealt_u,
        "noise": torch.randn_like(with_u),
    }
    truth = z[:, TRAIN_ROWS:]
    return {name: sum(map(metrics.mcc, z, truth)) / MIXINGS for name, z in latents.items()}


def ivae(fault: str, seed: int) -> Compared:
    """With side information the factors are recovered, otherwise they are not."""
    scores = ivae_scores()
    return Compared(scores["with u"], 1, scores[fault])


# --- schedules
# -------------------------------------------------------------------------------------


def cosine_schedule(seed: int) -> Compared:
    """The closed form; the mistake is a schedule that does not arrive."""
    steps = range(0, 101, 5)
    return Compared(
        ours=[train.cosine(step, 100, start=0.3, end=0.01) for step in steps],
        expected=[0.01 + 0.29 * (1 + math.cos(math.pi * step / 100)) / 2 for step in steps],
        faulty=[train.cosine(step, 101, start=0.3, end=0.01) for step in steps],
    )


def moved_average(start: torch.Tensor, goal: torch.Tensor, momentum: float) -> torch.Tensor:
    """Return the weights of a network after 7 updates from `start` towards `goal`, (8,)."""
    target = nn.Linear(3, 2).double()
    online = nn.Linear(3, 2).double()
    # Copies, since parameters become views of the vector and are updated in place.
    nn.utils.vector_to_parameters(start.clone(), target.parameters())
    nn.utils.vector_to_parameters(goal.clone(), online.parameters())
    for _ in range(7):
        train.ema_update(target, online, momentum=momentum)
    return nn.utils.parameters_to_vector(target.parameters()).detach()


def ema_endpoints(seed: int) -> Compared:
    """The closed form of a moving average."""
    start, goal = normal(seed, 2, 8)
    momenta = (0.0, 0.9, 1.0)
    expected = [m**7 * start + (1 - m**7) * goal for m in momenta]
    return Compared(
        ours=torch.cat([moved_average(start, goal, m) for m in momenta]),
        expected=torch.cat(expected),
        faulty=torch.cat([moved_average(start, goal, 1 - m) for m in momenta]),
    )


# --- the rows
# --------------------------------------------------------------------------------------

PPCA = "PCA.score, probabilistic PCA on digits"
ROWS = [
    Row(
        quantity="ELBO of a linear VAE at its optimum, nats",
        lesson="05",
        check=elbo_ppca,
        reference=PPCA,
        allowed=1e-6,
        fault="latents rotated",
        peer="scikit-learn",
    ),
    Row(
        quantity="ELBO of a linear VAE after 600 steps of Adam, nats",
        lesson="05",
        check=elbo_trained,
        reference=PPCA,
        allowed=0.1,
        fault="one component fewer",
        peer="scikit-learn",
    ),
    Row(
        quantity="MCC of linear ICA (FastICA), mean of ten mixtures",
        lesson="08",
        check=fast_ica,
        reference="identifiable: 1",
        allowed=0.05,
        fault="normal factors",
        peer="scikit-learn",
    ),
    *(
        Row(
            quantity="MCC of the iVAE, mean of five mixtures",
            lesson="08",
            check=partial(ivae, fault),
            reference="identifiable: 1, Khemakhem et al. 2020, Theorem 3",
            allowed=0.1,
            fault=fault,
            seeds=1,
            slow=True,
        )
        for fault in ("without u", "u dealt at random", "noise")
    ),
    Row(
        quantity="cosine schedule, step 0 to the last",
        lesson="12",
        check=cosine_schedule,
        reference="closed form: (1 + cos(pi t / T)) / 2",
        allowed=1e-12,
        fault="one step late",
        seeds=1,
    ),
    Row(
        quantity="moving average after 7 steps, momentum 0, 0.9, 1",
        lesson="06, 10",
        check=ema_endpoints,
        reference="closed form: m^7 a + (1 - m^7) b",
        allowed=1e-9,
        fault="momentum and 1 - momentum exchanged",
    ),
]
