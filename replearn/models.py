"""Networks, and encoders as files.

An encoder maps images (N, 3, H, W) in [0, 1] to features h (N, D). Its first layer centers the
images, so that every encoder of this package takes the same input. On disk an encoder is two files:
`NAME.safetensors` holds the weights, and `NAME.json` holds the card, which says how to build the
network, what it was trained on and what it scored.

The package ships small encoders. Those of full width are files of a release: `load` finds their
weights in the data folder, or fetches them once from the course's home.
"""

import hashlib
import json
import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from replearn import _check, _schema, _shipped
from replearn._command import did_you_mean
from replearn.files import write_atomically

SHIPPED = _shipped.SHIPPED
MOST_WIDTH = 65_536
LEAST_WEIGHTS = 100  # times the width squared: our networks have more
MOST_SIDE = 4096
HALVED_FROM = 48  # pixels a side: from here on the first layer of a network halves the resolution
POOLED_FROM = 80  # pixels a side: from here on a ResNet's first max-pool halves it again
MISFIT = "these are not the weights of its card: fetch card and weights again"
CARD = _schema.Record(  # as far as it is read here; a card may say more
    needed={"sha256": _schema.SHA256},
    optional={
        "architecture": _schema.Row(
            (_schema.Text(least=1), _schema.Whole(1, MOST_WIDTH)), "a pair of network and width"
        ),
        "side": _schema.Whole(1, MOST_SIDE),
        "data": _schema.Text(),
        "labels": _schema.Choice(("none",)),
        "head": _schema.Record({"sha256": _schema.SHA256, "class_names": _schema.Names()}),
    },
)
NO_LABELS = "none"  # the entry "labels" of an encoder that was trained on images without labels
REMEDY = "this is not the card of an encoder as models.save writes it: fetch card and weights again"


# --- encoders -------------------------------------------------------------------------------------


class Center(nn.Module):
    """Map images from [0, 1] to [-2, 2], which is the range that networks train well on.

    Example:
        >>> Center()(torch.tensor([0.0, 0.5, 1.0]))
        tensor([-2.,  0.,  2.])
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return 4 (x - 1/2), of the same shape."""
        return (x - 0.5) * 4


def _block(in_channels: int, out_channels: int, stride: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def small_cnn(width: int = 32, *, side: int = 32) -> nn.Sequential:
    """Build four convolutions and a 2 x 2 average, which two CPU cores train in a minute.

    For larger images the first convolution, 7 x 7, has stride 4 in place of 2.

    Args:
        width: Channels of the first convolution. The last one has four times as many.
        side: Height and width of the images in pixels; from 48 on they count as larger ones.

    Returns:
        An encoder of D = 16 * width features, with new weights from torch's global generator.

    References:
        He et al. 2015, "Delving Deep into Rectifiers", Eq. 14: the initialization.

    Example:
        >>> encoder = small_cnn(width=8)
        >>> encoder(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 128])
    """
    layers = OrderedDict(
        center=Center(),
        block1=_block(3, width, 2) if side < HALVED_FROM else _block(3, width, 4, kernel=7),
        block2=_block(width, 2 * width, 2),
        block3=_block(2 * width, 4 * width, 2),
        block4=_block(4 * width, 4 * width, 1),
        pool=nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
    )
    encoder = nn.Sequential(layers)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            # PyTorch's default lets the signal shrink from layer to layer; this one keeps it.
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return encoder.to(memory_format=torch.channels_last)  # a quarter faster on a CPU


def resnet18(width: int = 64, *, side: int = 32) -> nn.Sequential:
    """Build a ResNet-18 whose stem fits the size of the images.

    Up to 47 pixels a side the stem is a 3 x 3 convolution of stride 1, which keeps the resolution;
    from 48 on torchvision's 7 x 7 convolution of stride 2; from 80 on with torchvision's max-pool
    after it. So the last features are 3 x 3 or 4 x 4 for images of 32, 64, 96 and 128 pixels, and
    the work is about that for 32 pixels. Width 64 is torchvision's network; another width has the
    same layers with proportionally more or fewer channels.

    Args:
        width: Channels of the first convolution, a multiple of 8.
        side: Height and width of the images in pixels.

    Returns:
        An encoder of D = 8 * width features, with new weights from torch's global generator.

    Raises:
        ValueError: The width is not a multiple of 8.

    References:
        He et al. 2016, "Deep Residual Learning"; Chen et al. 2020, appendix B.9: the stem.

    Example:
        >>> encoder = resnet18(width=8)
        >>> encoder(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 64])
    """
    if width < 8 or width % 8:
        raise ValueError(f"width: expected a multiple of 8, found {width}")
    net = _narrow_resnet(width)
    if side < HALVED_FROM:
        net.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
    else:
        net.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
    net.bn1 = nn.BatchNorm2d(width)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    if side < POOLED_FROM:
        net.maxpool = nn.Identity()
    net.fc = nn.Identity()
    return nn.Sequential(OrderedDict(center=Center(), net=net))


def _narrow_resnet(width: int) -> nn.Module:
    """Return torchvision's ResNet-18 with `width / 64` of its channels in all four stages."""
    from torchvision.models.resnet import BasicBlock, ResNet

    class NarrowResNet(ResNet):
        def _make_layer(self, block, planes, blocks, **options):
            if planes == 64:  # the first stage: what comes in has the width of the stem
                self.inplanes = width
            return super()._make_layer(block, planes * width // 64, blocks, **options)

    return NarrowResNet(BasicBlock, [2, 2, 2, 2], zero_init_residual=False)


def build_encoder(network: str, width: int, side: int = 32) -> nn.Sequential:
    """Build an encoder by the name of its architecture.

    Args:
        network: `small_cnn`, `resnet18`, or `timm:NAME` for a network of the library timm.
        width: Channels of the first convolution. Networks of timm have a width of their own and
            ignore it.
        side: Side of the images in pixels, which the first layers fit. Convolutional networks of
            timm are the same for every size.

    Returns:
        The encoder, with new weights from torch's global generator.

    Raises:
        ValueError: There is no such network, or timm is not installed.

    Example:
        >>> build_encoder("small_cnn", width=4)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 64])
    """
    if network == "small_cnn":
        return small_cnn(width, side=side)
    if network == "resnet18":
        return resnet18(width, side=side)
    if isinstance(network, str) and network.startswith("timm:"):
        return _timm_encoder(network.removeprefix("timm:"), side)
    raise ValueError(f"network: expected small_cnn or resnet18 or timm:NAME, found {network!r}")


def _timm_encoder(name: str, side: int) -> nn.Sequential:
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"network timm:{name}: expected timm to be installed; run pip install timm"
        ) from error
    if not timm.is_model(name):
        raise ValueError(
            f"network timm:{name}: no such network in timm {timm.__version__}; "
            "see timm.list_models()"
        )
    try:
        try:
            # Transformers have to know the size of the images; convolutional networks refuse it.
            net = timm.create_model(name, num_classes=0, img_size=side)
        except TypeError:
            net = timm.create_model(name, num_classes=0)
    except Exception as error:  # each network of timm has checks of its own
        raise ValueError(
            f"network timm:{name}: expected one for pictures of side {side}, found that timm "
            f"cannot build it ({type(error).__name__}: {str(error)[:80]}); choose another network"
        ) from error
    return nn.Sequential(OrderedDict(center=Center(), net=net))


def feature_dim(encoder: nn.Module, side: int = 32) -> int:
    """Return the number of features that an encoder gives for an image.

    Args:
        encoder: Any network that maps images to features (N, D).
        side: Side of the image in pixels that it is tried on.

    Returns:
        D. The encoder is in the same mode afterwards, with the same running statistics.

    Example:
        >>> feature_dim(small_cnn(width=32))
        512
    """
    from replearn.probe import extract_features

    return extract_features(encoder, torch.zeros(1, 3, side, side)).shape[1]


# --- heads ----------------------------------------------------------------------------------------


def projector(
    in_dim: int, *, hidden: int = 256, out_dim: int = 64, layers: int = 2
) -> nn.Sequential:
    """Build an MLP from features h to projections z, on which a contrastive loss works.

    Between its linear layers stand batch normalization and ReLU.

    Args:
        in_dim: Number of features h.
        hidden: Units of every layer but the last.
        out_dim: Size of z.
        layers: Number of linear layers, 1 or more.

    Returns:
        A network from (N, in_dim) to (N, out_dim).

    References:
        Chen et al. 2020, section 4.2: why the loss does not work on h itself.

    Example:
        >>> projector(512, hidden=256, out_dim=64)(torch.rand(4, 512)).shape
        torch.Size([4, 64])
    """
    modules = []
    dim = in_dim
    for _ in range(layers - 1):
        # Batch normalization subtracts the mean, so a bias before it would have no effect.
        modules += [nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        dim = hidden
    return nn.Sequential(*modules, nn.Linear(dim, out_dim))


def decoder(latent_dim: int, *, width: int = 32) -> nn.Sequential:
    """Build the decoder of a VAE, from latents z to the logits of 32 x 32 images.

    Args:
        latent_dim: Size of z.
        width: Channels before the last convolution. The first one has four times as many.

    Returns:
        A network from (N, latent_dim) to (N, 3, 32, 32). A sigmoid turns the logits into pixels
        in [0, 1].

    Example:
        >>> logits = decoder(latent_dim=16)(torch.randn(4, 16))
        >>> logits.sigmoid().shape
        torch.Size([4, 3, 32, 32])
    """
    return nn.Sequential(
        nn.Linear(latent_dim, 4 * width * 4 * 4),
        nn.Unflatten(1, (4 * width, 4, 4)),
        nn.ReLU(),
        *_double_the_side(4 * width, 2 * width),
        *_double_the_side(2 * width, width),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(width, 3, 3, 1, 1),
    )


def _double_the_side(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Upsample(scale_factor=2),
        nn.Conv2d(in_channels, out_channels, 3, 1, 1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


# --- weights to and from torchvision --------------------------------------------------------------


TORCHVISION_WIDTH = 64
CENTER_MEAN = (0.5, 0.5, 0.5)
CENTER_STD = (0.25, 0.25, 0.25)  # Center is torchvision's Normalize with these
LARGE_SIDE = 224  # where the weights alone are given, a 7 x 7 stem is torchvision's own


class _Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, a number for each channel.

    They are buffers: weights with them never pass for those of a network that begins with Center.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


def to_torchvision(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a ResNet-18 of width 64 under the names of torchvision.models.resnet18.

    The encoder centers its images itself, and torchvision's network does not. So it wants images
    that were normalized before, by 4 (x - 1/2), which is torchvision's `Normalize` with mean 0.5
    and standard deviation 0.25 for every channel; then both give the same features. (The shift
    cannot be moved into the first convolution, which pads with zeros.) There is no classifier:
    `fc` has to be an `Identity`, or is loaded with strict=False. For images below 48 pixels a side
    the stem is a convolution of 3 x 3 with stride 1, and below 80 there is no max-pool.

    Args:
        encoder: As `resnet18`, `load` or `from_torchvision` return it.

    Returns:
        Copies of the weights, on their device.

    Raises:
        ValueError: It is another network, of another width, or normalizes in another way.

    Example:
        >>> from torchvision.models import resnet18 as of_torchvision
        >>> encoder = resnet18().eval()
        >>> net = of_torchvision().eval()
        >>> net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        >>> net.fc = nn.Identity()
        >>> net.load_state_dict(to_torchvision(encoder))
        <All keys matched successfully>
        >>> images = torch.rand(2, 3, 32, 32)
        >>> torch.allclose(net((images - 0.5) / 0.25), encoder(images), atol=1e-5)
        True
    """
    from torchvision.models.resnet import ResNet

    net = getattr(encoder, "net", None)
    if not isinstance(net, ResNet):
        raise ValueError(
            f"encoder: expected a ResNet-18 of models.resnet18, found {type(encoder).__name__} of "
            f"{_parts(encoder)}, which torchvision.models.resnet18 has no place for"
        )
    if type(getattr(encoder, "center", None)) is not Center:
        raise ValueError(
            "encoder: expected one that centers its images by models.Center, found another first "
            "layer; the features of torchvision's network would be others"
        )
    weights = net.state_dict()
    _check_resnet18("encoder", weights)
    return {name: weight.detach().clone() for name, weight in weights.items()}


def from_torchvision(
    source: nn.Module | Mapping[str, torch.Tensor],
    *,
    side: int | None = None,
    mean: Sequence[float] = CENTER_MEAN,
    std: Sequence[float] = CENTER_STD,
) -> nn.Sequential:
    """Build an encoder from a torchvision.models.resnet18, or from its weights.

    The encoder takes images in [0, 1] and normalizes them itself, so `mean` and `std` have to be
    those that the network was trained with: (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225) for
    torchvision's own weights. With the defaults the first layer is `Center`, and `save` and `load`
    work as for `resnet18`. With others `load` refuses the file, instead of centering in silence.
    The classifier `fc` is left out. Counters of batches, which old files lack, begin at 0.

    Args:
        source: The network, or its `state_dict()`.
        side: Side of the images in pixels, which says what the stem is; see `resnet18`. None: 32
            for a 3 x 3 stem; for a 7 x 7 stem a size with the max-pool, unless the network
            has none.
        mean: Of each channel, subtracted from images in [0, 1].
        std: Of each channel, by which the difference is divided.

    Returns:
        The encoder, in eval mode, on the CPU, in float32: copies of the weights.

    Raises:
        ValueError: It is another network, keys are missing or foreign, the stem is none of
            `resnet18`'s or does not fit the side, or mean and std are not three numbers each.

    Example:
        >>> from torchvision.models import resnet18 as of_torchvision
        >>> net = of_torchvision().eval()
        >>> encoder = from_torchvision(net)
        >>> net.fc = nn.Identity()
        >>> images = torch.rand(2, 3, 96, 96)
        >>> torch.allclose(net((images - 0.5) / 0.25), encoder(images), atol=1e-5)
        True
    """
    mean = _three_numbers("mean", mean, least=-math.inf)
    std = _three_numbers("std", std, least=0)
    given = source.state_dict() if isinstance(source, nn.Module) else source
    is_weights = isinstance(given, Mapping) and all(
        isinstance(name, str) and isinstance(x, torch.Tensor) for name, x in given.items()
    )
    if not is_weights:
        raise ValueError(
            "source: expected a torchvision.models.resnet18 or its state_dict(), found "
            f"{type(source).__name__}"
        )
    weights = {name: x for name, x in given.items() if name not in ("fc.weight", "fc.bias")}
    for name in list(weights):
        if name.endswith("running_var"):  # PyTorch before 0.4.1 counted no batches
            counter = name.replace("running_var", "num_batches_tracked")
            weights.setdefault(counter, torch.tensor(0))
    kernel = _check_resnet18("source", weights)
    if side is None:
        side = _side_of_stem(source, kernel)
    with torch.device("meta"):  # first weights are not drawn: these take their place
        encoder = resnet18(TORCHVISION_WIDTH, side=side)
    if encoder.net.conv1.kernel_size[0] != kernel:
        raise ValueError(
            f"side: expected one whose stem is {kernel} x {kernel}, as in the source, found {side}"
            f"; a 3 x 3 stem is for images below {HALVED_FROM} pixels, a 7 x 7 stem for larger ones"
        )
    if isinstance(source, nn.Module):
        _check_same_network(source, encoder.net, side)
    copies = {
        name: weights[name].detach().to("cpu", like.dtype, copy=True)
        for name, like in encoder.net.state_dict().items()
    }
    encoder.net.load_state_dict(copies, assign=True)
    if (mean, std) != (CENTER_MEAN, CENTER_STD):
        encoder.center = _Normalize(mean, std)
    return encoder.eval()


def _three_numbers(name: str, values: Sequence[float], *, least: float) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 3 or not all(least < number < math.inf for number in numbers):
        above = " above 0" if least == 0 else ""
        raise ValueError(
            f"{name}: expected three finite numbers{above}, one a channel, found {tuple(values)}"
        )
    return numbers


def _parts(network: nn.Module) -> str:
    return ", ".join(name for name, _ in network.named_children()) or "no parts"


def _check_resnet18(name: str, weights: Mapping[str, torch.Tensor]) -> int:
    """Raise unless these are the weights of a ResNet-18 of width 64; return the stem's kernel."""
    stem = weights.get("conv1.weight")
    if stem is None:
        raise ValueError(
            f"{name}: expected the keys of torchvision.models.resnet18, found no 'conv1.weight' "
            f"but {sorted(weights)[:3]}; take a prefix that all keys share off first"
        )
    kernel = stem.shape[-1] if stem.ndim == 4 else 7
    side = HALVED_FROM if kernel == 7 else 32
    # Shapes alone: a network on the device "meta" takes no memory.
    with torch.device("meta"):
        expected = resnet18(TORCHVISION_WIDTH, side=side).net.state_dict()
    _check.tensors(
        name,
        weights,
        expected,
        remedy=f"this is not a ResNet-18 of width {TORCHVISION_WIDTH} with torchvision's keys",
    )
    return kernel


def _side_of_stem(source: Any, kernel: int) -> int:
    """Return a side for which `resnet18` builds the stem of the source."""
    if kernel == 3:
        return 32
    has_no_pool = isinstance(getattr(source, "maxpool", None), nn.Identity)
    return HALVED_FROM if has_no_pool else LARGE_SIDE


def _check_same_network(source: nn.Module, net: nn.Module, side: int) -> None:
    """Raise where a network computes something else than ours with the same weights."""
    for name in ("conv1", "maxpool"):
        found = repr(getattr(source, name, None))
        expected = repr(getattr(net, name))
        if found != expected:
            raise ValueError(
                f"source.{name}: expected {expected} for images of {side} pixels, found {found}; "
                "change it, or give the side that it is for"
            )


# --- encoders as files ----------------------------------------------------------------------------


def save(encoder: nn.Module, path: str | os.PathLike, **card: Any) -> None:
    """Write an encoder as two files: its weights, and a card that says what they are.

    The files are `path`.safetensors and `path`.json, each written whole or not at all.

    Args:
        encoder: A network that `build_encoder` can build.
        path: Where to, without or with `.safetensors`; `~` is the home folder.
        card: What is known about the encoder. `architecture` is needed to load it again: the two
            arguments of `build_encoder`, such as `["small_cnn", 32]`. `side` is needed where the
            architecture depends on the size of the images. Data, recipe, seed and scores belong
            there too. The SHA-256 of the weights is added.

    Raises:
        TypeError: The card holds something that JSON does not know.
        ValueError: Its architecture, side or data is of another form; `load` could not read it.
        OSError: The folder does not exist or cannot be written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(small_cnn(4), f"{folder}/mine", architecture=["small_cnn", 4], data="shapes")
        ...     encoder = load(f"{folder}/mine")
        >>> feature_dim(encoder)
        64
    """
    from safetensors.torch import save as to_bytes

    tensors = {name: value.contiguous().cpu() for name, value in encoder.state_dict().items()}
    weights = to_bytes(tensors)
    card = {**card, "sha256": hashlib.sha256(weights).hexdigest()}
    card_text = json.dumps(card, indent=1) + "\n"
    stem = _without_suffix(path)
    # By way of the text: a tuple is a list in it.
    _schema.check(f"{stem}.json", json.loads(card_text), CARD, remedy="nothing was written")
    write_atomically(f"{stem}.safetensors", weights)
    write_atomically(f"{stem}.json", card_text)


def card(name: str | os.PathLike) -> dict[str, Any]:
    """Return the card of an encoder, and in it the `path` of its weights.

    Args:
        name: A shipped encoder such as `shapes_simclr`, a path as it was given to `save`, or the
            folder of a pretraining run.

    Returns:
        What `save` wrote, a dict with `architecture`, `sha256` and whatever else was given, and
        `path`, where the weights are. Those of a released encoder are there once `load` has
        fetched them.

    Raises:
        ValueError: There is no such encoder, or the file is not a card.
        OSError: The file cannot be read.

    Example:
        >>> card("shapes_simclr")["architecture"]
        ['small_cnn', 32]
    """
    return _read_card(_find(name))


def data_name(card: dict[str, Any]) -> str:
    """Return what `replearn.data.load` takes for the images that an encoder was trained on.

    Args:
        card: From `card`. Its entry `data` is a name, the path of a folder, or a sentence that
            begins with the name of a data set and a colon.

    Returns:
        The name or the path. A path is never taken apart: colons are part of it.

    Example:
        >>> data_name({"data": "shapes: 10,000 pictures"}), data_name({"data": "/scan 10:30"})
        ('shapes', '/scan 10:30')
    """
    described = str(card.get("data", "shapes"))
    for name in ("shapes", "digits", "cifar10", "pneumonia"):
        if described.startswith(f"{name}: "):
            return name
    return "cifar10" if described.startswith("CIFAR-10 (") else described


def labeled_data_name(card: dict[str, Any]) -> str:
    """Return `data_name`, for what has to know the classes of the images.

    Args:
        card: From `card`.

    Returns:
        The name or the path of images with labels.

    Raises:
        ValueError: The encoder was trained on images without labels.
    """
    if card.get("labels") == NO_LABELS:
        raise ValueError(
            f"{card['path']}: expected pictures with labels, found that it was trained on "
            f"{data_name(card)} without; give some with --data LABELED_FOLDER, which has a "
            "sub-folder for each class"
        )
    return data_name(card)


def load(name: str | os.PathLike) -> nn.Module:
    """Load an encoder.

    Args:
        name: A shipped encoder such as `shapes_simclr`, a released one such as
            `cifar10_simclr_full`, a path as it was given to `save`, or the folder of a pretraining
            run. The weights of a released encoder are `NAME.safetensors` in the folder of
            `data.cache_folder`, and are fetched where they are missing.

    Returns:
        The encoder in eval mode, on the CPU, in float32.

    Raises:
        ValueError: There is no such encoder, its weights are damaged, or its card and its weights
            do not belong together.
        OSError: A file cannot be read, or the weights of a released encoder are missing and cannot
            be fetched; the message says which command trains an equal encoder.

    Example:
        >>> encoder = load("shapes_simclr")
        >>> encoder(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 512])
    """
    stem = _find(name)
    card = _read_card(stem)
    if "architecture" not in card:
        raise ValueError(f"{stem}.json: expected the entry 'architecture', found none; {REMEDY}")
    network, width = card["architecture"]
    side = card.get("side", 32)
    if _shipped.is_released(stem):
        _shipped.fetch(stem.name)
    content = Path(card["path"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise ValueError(
            f"{card['path']}: expected SHA-256 {card['sha256'][:12]}…: damaged, fetch it again"
        )
    tensors = _read_weights(card["path"], content)
    numbers = sum(x.numel() for x in tensors.values())
    least = LEAST_WEIGHTS * width**2
    # Before anything is built: the network of a card that says too much would cost its memory.
    if network in ("small_cnn", "resnet18") and numbers < least:
        raise ValueError(
            f"{card['path']}: expected the weights of {network} of width {width:,}, more than "
            f"{least:,}, found {numbers:,}; {MISFIT}"
        )
    encoder = build_encoder(network, width, side)
    _check.tensors(card["path"], tensors, encoder.state_dict(), remedy=MISFIT)
    encoder.load_state_dict(tensors)
    return encoder.eval()


def save_head(
    path: str | os.PathLike, weight: torch.Tensor, bias: torch.Tensor, class_names: Sequence[str]
) -> dict[str, Any]:
    """Write a linear head beside an encoder, as `path`.head.safetensors.

    Args:
        path: As for `save`.
        weight: (C, D), for features as the encoder gives them.
        bias: (C,).
        class_names: The names of the C classes.

    Returns:
        The entry `head` for the card of the encoder; `load_head` believes the file by it alone.

    Raises:
        OSError: The folder does not exist or cannot be written to.
    """
    from safetensors.torch import save as to_bytes

    tensors = {"weight": weight.detach().cpu().float(), "bias": bias.detach().cpu().float()}
    content = to_bytes({name: x.contiguous() for name, x in tensors.items()})
    write_atomically(f"{_without_suffix(path)}.head.safetensors", content)
    return {"sha256": hashlib.sha256(content).hexdigest(), "class_names": list(class_names)}


def load_head(name: str | os.PathLike) -> tuple[torch.Tensor, torch.Tensor, list[str]] | None:
    """Return the linear head that was saved beside an encoder.

    Args:
        name: As for `load`.

    Returns:
        The weight (C, D), the bias (C,) and the class names; None if the card names no head.

    Raises:
        ValueError: There is no such encoder, or the head is damaged or of another form.
        OSError: The file cannot be read.
    """
    stem = _find(name)
    about = _read_card(stem).get("head")
    if about is None:
        return None
    path = f"{stem}.head.safetensors"
    content = Path(path).read_bytes()
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise ValueError(f"{path}: expected SHA-256 {about['sha256'][:12]}…: damaged, make it anew")
    tensors = _read_weights(path, content)
    count = len(about["class_names"])
    dim = tensors["weight"].shape[-1] if tensors.get("weight", torch.empty(0)).ndim == 2 else 1
    expected = {"weight": torch.empty(count, dim), "bias": torch.empty(count)}
    _check.tensors(path, tensors, expected, remedy=MISFIT)
    return tensors["weight"].float(), tensors["bias"].float(), about["class_names"]


def _read_weights(path: str, content: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load as from_bytes

    try:
        return from_bytes(content)
    except Exception as error:  # safetensors has errors of its own
        raise ValueError(
            f"{path}: expected safetensors, found {type(error).__name__}: {str(error)[:80]}; "
            f"{REMEDY}"
        ) from error


def _without_suffix(path: str | os.PathLike) -> Path:
    """Return the path from which the names of the two files are made."""
    path = Path(path).expanduser()
    return path.with_suffix("") if path.suffix == ".safetensors" else path


def _find(name: str | os.PathLike) -> Path:
    """Return the path of an encoder's two files without their suffixes."""
    shipped = _shipped.names()
    if name in shipped:
        in_package = SHIPPED / name
        return in_package if Path(f"{in_package}.json").exists() else _shipped.RELEASED / name
    stem = _without_suffix(name)
    if (stem / "encoder.json").exists():
        return stem / "encoder"
    if not Path(f"{stem}.json").exists():
        raise ValueError(
            f"no encoder {str(name)!r}: expected one of {shipped}, a path as it was given to "
            "save(), or the folder of a pretraining run"
            f"{did_you_mean(str(name), shipped)}"
        )
    return stem


def _read_card(stem: Path) -> dict[str, Any]:
    path = Path(f"{stem}.json")
    try:
        card = _schema.parse(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, found {str(error)[:80]}; {REMEDY}") from error
    _schema.check(path, card, CARD, remedy=REMEDY)
    weights = Path(f"{stem}.safetensors")
    if _shipped.is_released(stem):
        weights = _shipped.released_weights(stem.name)
    return {**card, "path": str(weights)}
