"""Networks. An encoder maps pictures (N, 3, H, W) in [0, 1] to h (N, D); its first layer centers them."""

import hashlib
import json
import os
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

SHIPPED = Path(__file__).parent / "checkpoints"


class Center(nn.Module):
    """Map pictures from [0, 1] to [-2, 2]."""

    def forward(self, x):
        return (x - 0.5) * 4


def _block(c_in, c_out, stride):
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()
    )


def small_cnn(width=32):
    """Four convolutions and a 2 x 2 average: an encoder that two CPU cores train in a minute. D = 16 * width."""
    w = width
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    net = nn.Sequential(
        OrderedDict(
            center=Center(),
            block1=_block(3, w, 2),
            block2=_block(w, 2 * w, 2),
            block3=_block(2 * w, 4 * w, 2),
            block4=_block(4 * w, 4 * w, 1),
            pool=pool,
        )
    )
    for module in net.modules():
        if isinstance(
            module, nn.Conv2d
        ):  # PyTorch's default shrinks the signal; He et al. 2015, Eq. 14 keeps it
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net.to(memory_format=torch.channels_last)  # a quarter faster on a CPU


def resnet18(width=64):
    """ResNet-18 for 32 x 32 pictures: 3 x 3 stem of stride 1, no max-pool (Chen et al. 2020, B.9). D = 8 * width.

    Width 64 is torchvision's network; a smaller one has the same layers with proportionally fewer channels."""
    from torchvision.models.resnet import BasicBlock, ResNet

    class NarrowResNet(ResNet):
        def _make_layer(self, block, planes, blocks, **options):
            if planes == 64:
                self.inplanes = width
            return super()._make_layer(block, planes * width // 64, blocks, **options)

    if width < 8 or width % 8:
        raise ValueError(f"width: expected a multiple of 8, found {width}")
    net = NarrowResNet(BasicBlock, [2, 2, 2, 2], zero_init_residual=False)
    net.conv1, net.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool, net.fc = nn.Identity(), nn.Identity()
    return nn.Sequential(OrderedDict(center=Center(), net=net))


def projector(in_dim, *, hidden=256, out_dim=64, layers=2):
    """MLP from h (N, in_dim) to z (N, out_dim), batch norm and ReLU between its `layers` linear layers."""
    dims = [in_dim] + [hidden] * (layers - 1)
    body = [
        m
        for a, b in pairwise(dims)
        for m in (nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU())
    ]
    return nn.Sequential(*body, nn.Linear(dims[-1], out_dim))


def decoder(latent_dim, *, width=32):
    """Map z (N, latent_dim) to the logits of a picture (N, 3, 32, 32): sigmoid gives pixels in [0, 1]."""
    up = lambda a, b: (
        nn.Upsample(scale_factor=2),
        nn.Conv2d(a, b, 3, 1, 1),
        nn.BatchNorm2d(b),
        nn.ReLU(),
    )
    return nn.Sequential(
        nn.Linear(latent_dim, 64 * width),
        nn.Unflatten(1, (4 * width, 4, 4)),
        nn.ReLU(),
        *up(4 * width, 2 * width),
        *up(2 * width, width),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(width, 3, 3, 1, 1),
    )


def feature_dim(encoder, side=32):
    """Return D, the number of features that an encoder gives a side x side picture."""
    from replearn.probe import extract_features

    return extract_features(encoder, torch.zeros(1, 3, side, side)).shape[1]


def save(encoder, path, **card):
    """Write weights to `path`.safetensors and the card to `path`.json, with their SHA-256, whole or not at all.
    The card must hold `architecture`, for example ["small_cnn", 32]; data, recipe, seed and scores belong there too."""
    from safetensors.torch import save as to_bytes

    weights = to_bytes(
        {name: value.contiguous().cpu() for name, value in encoder.state_dict().items()}
    )
    card = json.dumps({**card, "sha256": hashlib.sha256(weights).hexdigest()}, indent=1) + "\n"
    for suffix, content in ((".safetensors", weights), (".json", card.encode())):
        target = Path(f"{path}{suffix}")
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        partial.write_bytes(content)
        partial.replace(target)


def card(name):
    """Return the card (a dict) of a shipped encoder, or of one that `save` wrote to the path `name`."""
    shipped = sorted(p.stem for p in SHIPPED.glob("*.json"))
    path = SHIPPED / f"{name}.json" if name in shipped else Path(f"{name}.json")
    if not path.exists():
        raise ValueError(
            f"no encoder {str(name)!r}: expected one of {shipped}, or a path as it was given to save()"
        )
    return {**json.loads(path.read_text()), "path": str(path.with_suffix(".safetensors"))}


def load(name):
    """Return a shipped encoder, or one that `save` wrote, in eval mode; ValueError if its card says otherwise."""
    from safetensors.torch import load as from_bytes

    about = card(name)
    weights = Path(about["path"]).read_bytes()
    if hashlib.sha256(weights).hexdigest() != about["sha256"]:
        raise ValueError(
            f"{about['path']}: expected SHA-256 {about['sha256'][:12]}…: damaged, fetch it again"
        )
    (kind, width), known = about["architecture"], {"small_cnn": small_cnn, "resnet18": resnet18}
    if kind not in known:
        raise ValueError(f"architecture: expected small_cnn or resnet18, found {kind!r}")
    encoder = known[kind](width)
    encoder.load_state_dict(from_bytes(weights))
    return encoder.eval()
