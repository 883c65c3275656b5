"""Train the small encoders that the package ships; write each with its card.

python -m scripts.checkpoints            # all of them, about 5 minutes on 2 CPU cores
python -m scripts.checkpoints shapes_vae # one of them

They go to replearn/checkpoints/.
"""

import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from replearn import augment, data, losses, models, probe, train

SEED = 0
WIDTH = 32
FEATURES = 512  # columns of h
LATENTS = 64  # of the VAE


def supervised(encoder: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Train by cross-entropy on the class, images flipped at random; return the recipe."""
    settings = {"steps": 1000, "batch_size": 128, "lr": 2e-3}
    head = nn.Linear(FEATURES, 10)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head(encoder(augment.random_horizontal_flip(x))), y)

    train.fit(loss, [encoder, head], images, labels, **settings)
    return {"loss": "cross-entropy", **settings, "augmentation": "horizontal flip"}


def simclr(encoder: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Train by NT-Xent on two views of each image; return the recipe."""
    settings = {"steps": 600, "batch_size": 256, "lr": 2e-3}
    head = models.projector(FEATURES)

    def loss(x: torch.Tensor) -> torch.Tensor:
        views = augment.two_views(x, crop=(0.5, 1.0), jitter=(0.4, 0.4, 0.4, 0.5))
        z1, z2 = head(encoder(torch.cat(views))).chunk(2)
        return losses.nt_xent(z1, z2, temperature=0.2)

    train.fit(loss, [encoder, head], images, **settings)
    return {
        "loss": "NT-Xent, temperature 0.2",
        **settings,
        "projector": "512-256-64, dropped",
        "augmentation": "crop (0.5, 1), flip 0.5, jitter (0.4, 0.4, 0.4, 0.5), grayscale 0.2",
    }


def vae(encoder: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Train by the ELBO with a Bernoulli likelihood; return the recipe.

    What is kept is the network below the latent mean and variance.
    """
    settings = {"steps": 600, "batch_size": 256, "lr": 1e-3}
    heads = nn.Linear(FEATURES, 2 * LATENTS)
    decoder = models.decoder(LATENTS)

    def loss(x: torch.Tensor) -> torch.Tensor:
        mu, logvar = heads(encoder(x)).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * (logvar / 2).exp()
        cross_entropy = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        return cross_entropy / len(x) + losses.kl_normal(mu, logvar).mean()

    train.fit(loss, [encoder, heads, decoder], images, **settings)
    return {
        "loss": "negative ELBO, beta 1, Bernoulli likelihood",
        **settings,
        "latent_dim": LATENTS,
        "augmentation": "none",
    }


METHODS = {"shapes_supervised": supervised, "shapes_simclr": simclr, "shapes_vae": vae}


def scores(
    encoder: nn.Module, train_set: data.ImageSet, test_set: data.ImageSet
) -> dict[str, float]:
    """Return linear-probe and kNN accuracy on the class, as fractions of the test images."""
    z = probe.extract_features(encoder, train_set.images)
    z_test = probe.extract_features(encoder, test_set.images)
    sets = (z, train_set.labels, z_test, test_set.labels)
    return {
        "linear_probe": round(probe.linear_probe(*sets), 4),
        "knn": round(probe.knn_accuracy(*sets), 4),
    }


def main() -> None:
    """Train the encoders named on the command line, or all."""
    train_set = data.load("shapes")
    test_set = data.load("shapes", split="test", size=2000)
    for name in sys.argv[1:] or METHODS:
        train.set_seed(SEED)
        start = time.monotonic()
        encoder = models.small_cnn(WIDTH)
        recipe = METHODS[name](encoder, train_set.images, train_set.labels)
        models.save(
            encoder,
            models.SHIPPED / name,
            architecture=["small_cnn", WIDTH],
            data="shapes: 10,000, seed 0",
            recipe=recipe,
            seed=SEED,
            scores=scores(encoder, train_set, test_set),
            device="2 CPU cores",
            minutes=round((time.monotonic() - start) / 60, 1),
            versions={"torch": torch.__version__},
            license="MIT",
            command=f"python -m scripts.checkpoints {name}",
        )
        print(name, models.card(name)["scores"], flush=True)


if __name__ == "__main__":
    main()
