"""What a pretraining run is made of: one frozen dataclass, the recipes of the course, and the networks they name."""

import json
import math
from collections import OrderedDict
from dataclasses import asdict, dataclass, fields


def _number(low, high=math.inf, *, whole=False, text=None):
    kind = int if whole else (int, float)
    fits = lambda v: (
        isinstance(v, kind) and not isinstance(v, bool) and low <= v <= high and v < math.inf
    )
    bounds = f"of {low} or more" if high == math.inf else f"from {low} to {high}"
    return fits, text or f"a {'whole ' * whole}number {bounds}"


def _one_of(*names):
    return (lambda v: v in names), f"one of {', '.join(names)}"


def _strengths(v):
    return isinstance(v, tuple) and len(v) == 4 and all(_number(0)[0](s) for s in v) and v[3] <= 0.5


def _range(v):
    pair = isinstance(v, tuple) and len(v) == 2 and all(_number(1e-6, 1)[0](share) for share in v)
    return v is None or (pair and v[0] <= v[1])


def _network(v):
    return v in ("resnet18", "small_cnn") or (
        isinstance(v, str) and v.startswith("timm:") and len(v) > 5
    )


SHARE, COUNT, LEAST = _number(0, 1), _number(1, whole=True), 1e-6
RULES = dict(  # field -> (does the value fit?, what is expected)
    network=(_network, "resnet18, small_cnn or timm:NAME"),
    width=COUNT,
    data=(lambda v: isinstance(v, str), "a name"),
    epochs=_number(LEAST),
    minutes=(lambda v: v is None or _number(LEAST)[0](v), "None or a number above 0"),
    batch_size=_number(2, whole=True),
    optimizer=_one_of("sgd", "adamw"),
    lr=_number(1e-12),
    weight_decay=_number(0),
    warmup=_number(0, 0.9),
    loss=_one_of("nt_xent", "decoupled_contrastive"),
    temperature=_number(LEAST),
    crop=(_range, "two rising shares of the area, or None"),
    jitter=(_strengths, "four strengths of 0 or more, the hue's up to 0.5"),
    grayscale=SHARE,
    blur=SHARE,
    flip=SHARE,
    hidden=COUNT,
    out=COUNT,
    layers=COUNT,
    queue=_number(0, whole=True),
    momentum=SHARE,
    average=_number(0, 0.99999),
    n_small=_number(0, whole=True),
    seed=_number(0, whole=True),
)


@dataclass(frozen=True)
class Recipe:
    """One pretraining run; `dataclasses.replace(COURSE, epochs=20)` changes a field. A bad field raises ValueError.

    epochs: passes over the pictures; minutes, if given, replaces them: as many steps as fit. warmup: share of steps.
    batch_size: pictures a step, over all processes; lr: the highest; after the warm-up it falls to 0 along a cosine.
    crop, jitter, grayscale, blur, flip: as in `two_views`. n_small: additional small views a picture (multi-crop).
    hidden, out, layers: the projector. queue: keys that MoCo remembers (0: no MoCo), momentum: of its key network.
    average: momentum of the mean of past weights that is evaluated and saved in place of the last ones (0: none)."""

    network: str = "resnet18"
    width: int = 64
    data: str = "cifar10"
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
    queue: int = 0
    momentum: float = 0.99
    average: float = 0.0
    n_small: int = 0
    seed: int = 0

    def __post_init__(self):
        for name in ("crop", "jitter"):  # JSON knows lists only
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        for name, (fits, expected) in RULES.items():
            if not fits(value := getattr(self, name)):
                raise ValueError(f"recipe: {name}: expected {expected}, found {value!r}")
        if self.queue and self.loss != "nt_xent":
            raise ValueError(
                f"recipe: a queue brings a loss of its own: expected loss nt_xent, found {self.loss}"
            )


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


def to_json(recipe):
    """Return a recipe as JSON text."""
    return json.dumps(asdict(recipe))


def from_json(text):
    """Return the recipe that `to_json` wrote; absent fields keep their defaults. ValueError for unknown or bad ones."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"recipe: expected JSON, found {text[:40]!r} ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"recipe: expected a JSON object, found {text[:40]!r}")
    known = [field.name for field in fields(Recipe)]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(
            f"recipe: unknown field {', '.join(unknown)}; known are {', '.join(known)}"
        )
    return Recipe(**values)


def differences(old, new):
    """Return one sentence part that names every field in which two recipes differ; empty if none does."""
    pairs = ((name, getattr(old, name), getattr(new, name)) for name in RULES)
    return "; ".join(f"{name} was {a!r}, is now {b!r}" for name, a, b in pairs if a != b)


def networks(recipe, side=32):
    """Return a new encoder and projector for side x side pictures, with weights from torch's global generator."""
    from replearn import (
        models,  # here, so that the command line of the service does without PyTorch
    )

    if recipe.network.startswith("timm:"):
        encoder = _timm(recipe.network[5:], side)
    else:
        encoder = getattr(models, recipe.network)(recipe.width)
    in_dim = models.feature_dim(encoder, side)
    return encoder, models.projector(
        in_dim, hidden=recipe.hidden, out_dim=recipe.out, layers=recipe.layers
    )


def _timm(name, side):
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"network timm:{name}: expected timm to be installed; run pip install timm"
        ) from error
    from torch import nn

    from replearn import models

    if not timm.is_model(name):
        raise ValueError(
            f"network timm:{name}: no such network in timm {timm.__version__}; see timm.list_models()"
        )
    try:
        net = timm.create_model(
            name, num_classes=0, img_size=side
        )  # transformers have to know the size
    except TypeError:
        net = timm.create_model(name, num_classes=0)
    return nn.Sequential(OrderedDict(center=models.Center(), net=net))
