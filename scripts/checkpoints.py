"""Train the small encoders that the package ships, and write each with its card to replearn/checkpoints/.

python -m scripts.checkpoints            # all of them, about 5 minutes on 2 CPU cores
python -m scripts.checkpoints shapes_vae # one of them
"""

import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from replearn import augment, data, losses, models, probe, train


def supervised(encoder, images, labels):
    """Cross-entropy on the class, pictures flipped at random."""
    head = nn.Linear(512, 10)
    loss = lambda x, y: F.cross_entropy(head(encoder(augment.random_horizontal_flip(x))), y)
    train.fit(loss, [encoder, head], images, labels, steps=1000, batch_size=128, lr=2e-3)
    return dict(
        loss="cross-entropy", steps=1000, batch_size=128, lr=2e-3, augmentation="horizontal flip"
    )


def simclr(encoder, images, labels):
    """NT-Xent on two views of each picture."""
    head = models.projector(512)

    def loss(x):
        views = torch.cat(augment.two_views(x, crop=(0.5, 1.0), jitter=(0.4, 0.4, 0.4, 0.5)))
        return losses.nt_xent(*head(encoder(views)).chunk(2), temperature=0.2)

    train.fit(loss, [encoder, head], images, steps=600, batch_size=256, lr=2e-3)
    return dict(
        loss="NT-Xent, temperature 0.2",
        steps=600,
        batch_size=256,
        lr=2e-3,
        projector="512-256-64, dropped",
        augmentation="crop (0.5, 1), flip 0.5, jitter (0.4, 0.4, 0.4, 0.5), grayscale 0.2",
    )


def vae(encoder, images, labels):
    """ELBO with a Bernoulli likelihood; what is kept is the network below the latent mean and variance."""
    heads, decoder = nn.Linear(512, 2 * 64), models.decoder(64)

    def loss(x):
        mu, logvar = heads(encoder(x)).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * (logvar / 2).exp()
        reconstruction = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") / len(x)
        return reconstruction + losses.kl_normal(mu, logvar).mean()

    train.fit(loss, [encoder, heads, decoder], images, steps=600, batch_size=256, lr=1e-3)
    return dict(
        loss="negative ELBO, beta 1, Bernoulli likelihood",
        steps=600,
        batch_size=256,
        lr=1e-3,
        latent_dim=64,
        augmentation="none",
    )


def scores(encoder, train_set, test_set):
    """Linear-probe and kNN accuracy on the class, as fractions of the test pictures."""
    z, z_test = (probe.extract_features(encoder, s.images) for s in (train_set, test_set))
    return dict(
        linear_probe=round(probe.linear_probe(z, train_set.labels, z_test, test_set.labels), 4),
        knn=round(probe.knn_accuracy(z, train_set.labels, z_test, test_set.labels), 4),
    )


def main():
    recipes = {"shapes_supervised": supervised, "shapes_simclr": simclr, "shapes_vae": vae}
    train_set, test_set = data.load("shapes"), data.load("shapes", split="test", size=2000)
    for name in sys.argv[1:] or recipes:
        train.set_seed(0)
        start, encoder = time.time(), models.small_cnn(32)
        recipe = recipes[name](encoder, train_set.images, train_set.labels)
        models.save(
            encoder,
            models.SHIPPED / name,
            architecture=["small_cnn", 32],
            data="shapes: 10,000, seed 0",
            recipe=recipe,
            seed=0,
            scores=scores(encoder, train_set, test_set),
            device="2 CPU cores",
            minutes=round((time.time() - start) / 60, 1),
            versions={"torch": torch.__version__},
            license="MIT",
            command=f"python -m scripts.checkpoints {name}",
        )
        print(name, models.card(name)["scores"], flush=True)


if __name__ == "__main__":
    main()
