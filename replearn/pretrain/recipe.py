"""What a pretraining run is made of: a frozen dataclass, the recipes of the course, networks."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from replearn._command import MOST_SEED
from replearn._schema import shown

if TYPE_CHECKING:  # the command line has to know the fields of a recipe, and does without PyTorch
    from torch import nn

LEAST = 1e-6
MOST = 1_000_000  # epochs, minutes, keys of a queue
LEAST_SIDE = 16  # pixels
MOST_SIDE = 512
MOST_VIEWS = 64  # of one kind, large or small
CONTRASTIVE = ("nt_xent", "decoupled_contrastive")
PREDICTIVE = ("byol", "simsiam")  # losses without negatives, which need a predictor


@dataclass(frozen=True)
class Recipe:
    """One pretraining run; `dataclasses.replace(COURSE, epochs=20)` changes a field.

    Args:
        network: `resnet18`, `small_cnn`, or `timm:NAME` for a network of the timm package.
        width: Channels of the network's first layer; timm's networks have widths of their own.
        data: The name of the data set, or the path of a folder.
        side: Height and width of the images in pixels; the first layers of the network fit it.
        unlabeled: Whether all images at any depth of the folder are read, without labels.
        epochs: Passes over the images.
        minutes: If given, it replaces `epochs`: as many steps as fit.
        batch_size: Images a step, over all processes, however many views each has: 64 images with
            4 views cost what 128 images with 2 views do.
        optimizer: `sgd` (with momentum 0.9) or `adamw`.
        lr: The highest learning rate; after the warm-up it falls to 0 along a cosine.
        weight_decay: As the optimizer understands it.
        warmup: The share of the steps in which the learning rate rises, 0 to 0.9.
        loss: `nt_xent` or `decoupled_contrastive`; or, without negatives, `simsiam`, or `byol`,
            whose targets come from a target network.
        temperature: Of a contrastive loss; the others have none.
        crop: The range of areas that a view shows, as in `replearn.augment.two_views`.
        jitter: Strengths of brightness, contrast, saturation and hue, as in `two_views`.
        grayscale: The probability that a view is gray.
        blur: The probability that a view is blurred.
        flip: The probability that a view is mirrored.
        hidden: Width of the projector's hidden layers.
        out: Size of z, the projector's output.
        layers: Linear layers of the projector.
        predictor: Width of the predictor's hidden layer, for `byol` and `simsiam`; 0: no predictor.
            A projector that has a predictor behind it ends in batch normalization.
        queue: Keys that MoCo remembers; 0: no MoCo.
        momentum: Of the target network: of MoCo's keys, or of the targets of `byol`.
        average: Momentum of the mean of past weights that is evaluated and saved in place of the
            last ones; 0: none.
        n_views: Large views of each image, each of which is pulled to the others.
        mean_target: Whether a view is pulled to the mean of the other large views' z, scaled to
            unit length, rather than to each of them.
        n_small: Small views of each image besides the large ones (multi-crop).
        seed: Decides the first weights, the order of the images and the views.

    Raises:
        ValueError: A field has a value that makes no sense; the sentence names it.

    Example:
        >>> from dataclasses import replace
        >>> replace(COURSE, epochs=20).epochs
        20
    """

    network: str = "resnet18"
    width: int = 64
    data: str = "cifar10"
    side: int = 32
    unlabeled: bool = False
    epochs: float = 200
    minutes: float | None = None
    batch_size: int = 256
    optimizer: str = "sgd"
    lr: float = 0.12
    weight_decay: float = 5e-4
    warmup: float = 0.0
    loss: str = "nt_xent"
    temperature: float = 0.1
    crop: tuple[float, float] | None = (0.08, 1.0)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    grayscale: float = 0.2
    blur: float = 0.0
    flip: float = 0.5
    hidden: int = 2048
    out: int = 128
    layers: int = 2
    predictor: int = 0
    queue: int = 0
    momentum: float = 0.99
    average: float = 0.0
    n_views: int = 2
    mean_target: bool = False
    n_small: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        self._make_tuples()
        _require("network", self.network, _is_network, "resnet18, small_cnn or timm:NAME")
        _check_whole("width", self.width, low=1, high=4096)
        _require("data", self.data, _is_text, "a name")
        _check_number("epochs", self.epochs, low=LEAST, high=MOST)
        _check_whole("side", self.side, low=LEAST_SIDE, high=MOST_SIDE)
        _require("unlabeled", self.unlabeled, _is_truth, "true or false")
        _require("minutes", self.minutes, _is_duration, "None or a number above 0")
        _check_whole("batch_size", self.batch_size, low=2)
        _check_choice("optimizer", self.optimizer, ("sgd", "adamw"))
        _check_number("lr", self.lr, low=1e-12)
        _check_number("weight_decay", self.weight_decay, low=0)
        _check_number("warmup", self.warmup, low=0, high=0.9)
        _check_choice("loss", self.loss, CONTRASTIVE + PREDICTIVE)
        _check_number("temperature", self.temperature, low=LEAST)
        _require("crop", self.crop, _is_range, "two rising shares of the area, or None")
        strengths = "four strengths of 0 or more, the hue's up to 0.5"
        _require("jitter", self.jitter, _are_strengths, strengths)
        _check_number("grayscale", self.grayscale, low=0, high=1)
        _check_number("blur", self.blur, low=0, high=1)
        _check_number("flip", self.flip, low=0, high=1)
        _check_whole("hidden", self.hidden, low=1, high=100_000)
        _check_whole("out", self.out, low=1, high=100_000)
        _check_whole("layers", self.layers, low=1, high=16)
        _check_whole("predictor", self.predictor, low=0, high=100_000)
        _check_whole("queue", self.queue, low=0, high=MOST)
        _check_number("momentum", self.momentum, low=0, high=1)
        _check_number("average", self.average, low=0, high=0.99999)
        _check_whole("n_views", self.n_views, low=2, high=MOST_VIEWS)
        _require("mean_target", self.mean_target, _is_truth, "true or false")
        _check_whole("n_small", self.n_small, low=0, high=MOST_VIEWS)
        _check_whole("seed", self.seed, low=0, high=MOST_SEED)
        if self.queue and self.loss != "nt_xent":
            raise ValueError(
                "recipe: a queue brings a loss of its own: expected loss nt_xent, "
                f"found {self.loss}"
            )
        if self.loss in PREDICTIVE and not self.predictor:
            raise ValueError(
                f"recipe: predictor: expected 1 or more with loss {self.loss}, which collapses "
                "without a predictor, found 0; 512 fits the other default widths"
            )
        if self.predictor and self.loss in CONTRASTIVE:
            raise ValueError(
                f"recipe: predictor: expected 0 with loss {self.loss}, found {self.predictor}; "
                f"set it to 0, or choose loss {' or '.join(PREDICTIVE)}"
            )
        if self.mean_target and self.n_views == 2:
            raise ValueError(
                "recipe: mean_target: expected n_views of 3 or more, since of 2 views the other "
                "one is the mean already, found 2; raise n_views, or leave mean_target off"
            )

    def _make_tuples(self) -> None:
        """Turn the lists that JSON knows into tuples, so that equal recipes are equal."""
        for name in ("crop", "jitter"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))  # the way around frozen=True


def _is_number(value: Any, low: float, high: float = math.inf) -> bool:
    """Whether it is a finite int or float in a range; True and False are no numbers here."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return low <= value <= high and value < math.inf


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_network(value: Any) -> bool:
    if value in ("resnet18", "small_cnn"):
        return True
    return isinstance(value, str) and value.startswith("timm:") and value != "timm:"


def _is_duration(value: Any) -> bool:
    return value is None or _is_number(value, LEAST, MOST)


def _is_range(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    low, high = value
    return _is_number(low, LEAST, 1) and _is_number(high, LEAST, 1) and low <= high


def _are_strengths(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) != 4:
        return False
    hue = value[3]
    return all(_is_number(strength, 0) for strength in value) and hue <= 0.5


def _require(name: str, value: Any, fits: Callable[[Any], bool], expected: str) -> None:
    if not fits(value):
        raise ValueError(f"recipe: {name}: expected {expected}, found {shown(value)}")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        expected = f"one of {', '.join(choices)}"
        raise ValueError(f"recipe: {name}: expected {expected}, found {shown(value)}")


def _check_number(name: str, value: Any, *, low: float, high: float = math.inf) -> None:
    if not _is_number(value, low, high):
        expected = f"a number of {low} or more"
        if high < math.inf:
            expected = f"a number from {low} to {high}"
        raise ValueError(f"recipe: {name}: expected {expected}, found {shown(value)}")


def _check_whole(name: str, value: Any, *, low: int, high: float = math.inf) -> None:
    if not isinstance(value, int) or not _is_number(value, low, high):
        expected = f"a whole number of {low} or more"
        if high < math.inf:
            expected = f"a whole number from {low} to {high:,}"
        raise ValueError(f"recipe: {name}: expected {expected}, found {shown(value)}")


# The recipe in the course's source, which gives neither optimizer nor weight decay: those are ours.
SOURCE = Recipe(optimizer="adamw", lr=1e-3, weight_decay=1e-4, blur=0.5)
# lightly's public CIFAR-10 benchmark: no blur, its loss's default temperature, and
# its jitter of 0.8, 0.8, 0.8, 0.2 at the default strength 0.5. lr is 0.06 * batch size / 128.
LIGHTLY = Recipe(batch_size=128, lr=0.06, temperature=0.5, hidden=512)
COURSE = Recipe(
    batch_size=128,
    lr=0.1,
    warmup=0.05,
    temperature=0.2,
    crop=(0.2, 1.0),
    loss="decoupled_contrastive",
)
# No GPU: a small network on drawn shapes, minutes on two CPU cores.
SHAPES = Recipe(
    network="small_cnn",
    width=32,
    data="shapes",
    epochs=20,
    batch_size=128,
    optimizer="adamw",
    lr=2e-3,
    weight_decay=1e-4,
    warmup=0.05,
    temperature=0.2,
    crop=(0.5, 1.0),
    jitter=(0.4, 0.4, 0.4, 0.5),
    hidden=256,
    out=64,
)
NAMED = {"source": SOURCE, "lightly": LIGHTLY, "course": COURSE, "shapes": SHAPES}


def to_json(recipe: Recipe) -> str:
    """Return a recipe as JSON text.

    Args:
        recipe: Any recipe.

    Returns:
        A JSON object with all fields.

    Example:
        >>> from_json(to_json(SHAPES)) == SHAPES
        True
    """
    return json.dumps(asdict(recipe))


def from_json(text: str) -> Recipe:
    """Return the recipe that `to_json` wrote.

    Args:
        text: A JSON object; absent fields keep their defaults.

    Returns:
        The recipe.

    Raises:
        ValueError: It is not JSON, or a field is unknown or makes no sense.

    Example:
        >>> from_json('{"lr": 0.5}').lr
        0.5
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"recipe: expected JSON, found {text[:40]!r} ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"recipe: expected a JSON object, found {text[:40]!r}")
    known = [field.name for field in fields(Recipe)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"recipe: unknown field {', '.join(unknown)}; known are {', '.join(known)}"
        )
    return Recipe(**values)


def differences(old: Recipe, new: Recipe) -> str:
    """Return a part of a sentence that names every field in which two recipes differ.

    Args:
        old: The recipe before.
        new: The recipe after.

    Returns:
        The changes with "; " between them; empty if there are none.

    Example:
        >>> differences(Recipe(lr=0.1), Recipe(lr=0.2))
        'lr was 0.1, is now 0.2'
    """
    changes = []
    for field in fields(Recipe):
        before = getattr(old, field.name)
        after = getattr(new, field.name)
        if before != after:
            changes.append(f"{field.name} was {shown(before)}, is now {shown(after)}")
    return "; ".join(changes)


def networks(recipe: Recipe, side: int | None = None) -> tuple["nn.Module", "nn.Module"]:
    """Return the new encoder and projector of a recipe; `new_predictor` returns its predictor.

    Their weights are drawn from PyTorch's global generator.

    Args:
        recipe: Says which network, and which projector.
        side: Height and width of the images in pixels; None for the recipe's.

    Returns:
        The encoder, images (N, 3, side, side) to h (N, D), and the projector, h to z (N, out).

    Raises:
        ValueError: timm is not installed, or does not know the network.

    Example:
        >>> encoder, projector = networks(SHAPES)
        >>> projector[-1].out_features
        64
    """
    from torch import nn  # here, so that the command line loads without PyTorch

    from replearn import models

    side = side or recipe.side
    encoder = models.build_encoder(recipe.network, recipe.width, side)
    features = models.feature_dim(encoder, side)
    projector = models.projector(
        features, hidden=recipe.hidden, out_dim=recipe.out, layers=recipe.layers
    )
    if recipe.predictor:
        # As SimSiam's projector ends; lesson 10 shows how much less is learned without it.
        projector.append(nn.BatchNorm1d(recipe.out, affine=False))
    return encoder, projector


def new_predictor(recipe: Recipe) -> "nn.Module | None":
    """Return the new predictor of a recipe: what `byol` and `simsiam` train beside the encoder.

    Its weights are drawn from PyTorch's global generator.

    Args:
        recipe: Says how wide it is.

    Returns:
        The predictor, z to p, both (N, out); None if the recipe has none.

    Example:
        >>> from dataclasses import replace
        >>> new_predictor(SHAPES) is None
        True
        >>> new_predictor(replace(SHAPES, loss="simsiam", predictor=16))[0].out_features
        16
    """
    if not recipe.predictor:
        return None
    from replearn import models

    return models.projector(recipe.out, hidden=recipe.predictor, out_dim=recipe.out)
