"""The commands `pretrain` and `evaluate` of `python -m replearn`.

Adding a command to the parser loads nothing heavy: PyTorch comes with a command when it runs.
"""

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replearn.pretrain.recipe import NAMED, Recipe

if TYPE_CHECKING:
    from torch import nn

    from replearn.data import ImageSet


def add_pretrain(commands: argparse._SubParsersAction) -> None:
    """Add the command `pretrain`, which trains an encoder or goes on where it was stopped.

    Args:
        commands: What `parser.add_subparsers()` returns.
    """
    parser = commands.add_parser(
        "pretrain", help="train an encoder; the same command again goes on where it stopped"
    )
    parser.add_argument(
        "--recipe", choices=sorted(NAMED), default="course", help="where all other fields come from"
    )
    parser.add_argument("--folder", help="for checkpoints, the log and the encoder")
    parser.add_argument(
        "--no-resume", action="store_true", help="start over, whatever is in the folder"
    )
    parser.add_argument("--size", type=int, help="train on so many pictures (default: all)")
    parser.add_argument(
        "--test-size", type=int, help="measure kNN on so many pictures (default: all)"
    )
    parser.add_argument(
        "--knn-every",
        type=int,
        default=5,
        help="measure kNN every so many epochs; 0: at the end only",
    )
    parser.add_argument("--log-every", type=int, default=20, help="a record every so many steps")
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=60, help="a checkpoint every so many seconds"
    )
    parser.add_argument("--device", help="cpu, cuda, …; default: a GPU if there is one")
    parser.add_argument("--compile", action="store_true", help="torch.compile, on a GPU")
    group = parser.add_argument_group("fields of the recipe, to change them")
    for field in fields(Recipe):
        option = f"--{field.name.replace('_', '-')}"
        # A field that is not given is not there at all: None would be a value.
        group.add_argument(option, type=_field_value, default=argparse.SUPPRESS, metavar="X")
    parser.set_defaults(run=_pretrain)


def add_evaluate(commands: argparse._SubParsersAction) -> None:
    """Add the command `evaluate`, which measures an encoder next to an untrained one.

    Args:
        commands: What `parser.add_subparsers()` returns.
    """
    parser = commands.add_parser(
        "evaluate", help="measure an encoder next to an untrained one: a table, JSON, figures"
    )
    parser.add_argument(
        "encoder", help="a shipped encoder, a path of models.save, or the folder of a pretraining"
    )
    parser.add_argument(
        "--data",
        help="shapes, digits, cifar10, a folder of pictures; default: what it was trained on",
    )
    parser.add_argument(
        "--size", type=int, help="so many training pictures for the probes (default: all)"
    )
    parser.add_argument("--test-size", type=int, help="so many test pictures (default: all)")
    parser.add_argument(
        "--supervised", metavar="ENCODER", help="one more row, and the other side of CKA"
    )
    parser.add_argument("--other", metavar="DATA", help="a second set of pictures, to transfer to")
    parser.add_argument(
        "--mixup",
        type=float,
        default=0.0,
        help="mixup's alpha in the SGD probe (default: no mixup)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the probes and of the untrained encoder"
    )
    parser.add_argument("--device", help="cpu, cuda, …; default: a GPU if there is one")
    parser.add_argument("--json", metavar="FILE", help="write the reports there")
    parser.add_argument(
        "--figure", metavar="FOLDER", help="write gallery, audit card and curves there, as PNG"
    )
    parser.set_defaults(run=_evaluate)


def _field_value(text: str) -> Any:
    """Read a field's value: JSON where it is JSON ("[0.2, 1]", "null", "3"), else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _pretrain(args: argparse.Namespace) -> None:
    from replearn import data
    from replearn.pretrain import distributed, pretrain

    given = vars(args)
    changes = {field.name: given[field.name] for field in fields(Recipe) if field.name in given}
    recipe = replace(NAMED[args.recipe], **changes)
    if isinstance(recipe.data, str) and Path(recipe.data).expanduser().is_dir():
        if recipe.data not in ("cifar10", "digits", "pneumonia", "shapes"):
            # The card remembers it, and may be read in another working folder.
            recipe = replace(recipe, data=str(Path(recipe.data).expanduser().resolve()))

    def load_sets() -> tuple["ImageSet", "ImageSet"]:
        train = data.load(recipe.data, size=args.size)
        test = data.load(recipe.data, split="test", size=args.test_size)
        return train, test

    distributed.join(args.device)
    train, test = distributed.first(load_sets)  # so that a download happens once
    result = pretrain(
        recipe,
        train.images,
        folder=args.folder,
        resume=not args.no_resume,
        knn=(train, test),
        knn_every=args.knn_every,
        device=args.device,
        compile=args.compile,
        log_every=args.log_every,
        checkpoint_seconds=args.checkpoint_seconds,
    )
    if distributed.rank() == 0 and result.history:
        print(json.dumps(result.history[-1]))
    distributed.leave()


def _evaluate(args: argparse.Namespace) -> None:
    from replearn import data, models
    from replearn.files import writable_folder
    from replearn.pretrain.evaluation import evaluate
    from replearn.pretrain.log import LOG, say
    from replearn.pretrain.report import compare, figures, write

    card = models.card(args.encoder)
    encoders = _encoders(args)
    supervised = encoders.get(args.supervised)
    encoder = encoders[args.encoder]
    if args.figure:  # before the work, not after it
        writable_folder(args.figure)
    if args.json:
        writable_folder(Path(args.json).expanduser().parent)

    name = args.data or models.data_name(card)
    train = data.load(name, size=args.size)
    test = data.load(name, split="test", size=args.test_size)
    other = _other_sets(args)
    reports = {}
    for row, network in _short_names(encoders).items():
        reports[row] = evaluate(
            network,
            train,
            test,
            supervised=None if network is supervised else supervised,
            other=other,
            mixup=args.mixup,
            seed=args.seed,
        )
        say(f"{row}: {reports[row]['seconds']:.0f} s")

    print(f"{name}: {len(train):,} training and {len(test):,} test pictures")
    print(compare(reports))
    if args.json:
        content = dict(
            data=name, other=args.other, mixup=args.mixup, seed=args.seed, reports=reports
        )
        write(Path(args.json).expanduser(), content)
    if args.figure:
        log = Path(card["path"]).with_name(LOG)
        figures(args.figure, encoder, reports, train, test, log if log.exists() else None)


def _encoders(args: argparse.Namespace) -> dict[str, "nn.Module"]:
    """Return the encoders to measure, in the order of the table's rows."""
    from replearn import models
    from replearn.pretrain.evaluation import random_like

    encoder = models.load(args.encoder)
    encoders = {args.encoder: encoder}
    if args.supervised:
        encoders[args.supervised] = models.load(args.supervised)
    encoders["untrained"] = random_like(encoder, seed=args.seed)
    return {name: _moved(network, args.device) for name, network in encoders.items()}


def _short_names(encoders: dict[str, "nn.Module"]) -> dict[str, "nn.Module"]:
    """Name each encoder by the last part of its path, if that tells them apart."""
    short = {Path(name).name: network for name, network in encoders.items()}
    return short if len(short) == len(encoders) else encoders


def _moved(encoder: "nn.Module", device: str | None) -> "nn.Module":
    from replearn import _device

    return encoder.to(_device.named(device))


def _other_sets(args: argparse.Namespace) -> tuple["ImageSet", "ImageSet"] | None:
    """Return a training and a test set to transfer to, each cut down to --size."""
    if not args.other:
        return None
    from replearn import data

    train = data.load(args.other)
    test = data.load(args.other, split="test")
    return _random_part(train, args.size), _random_part(test, args.size)


def _random_part(images: "ImageSet", size: int | None) -> "ImageSet":
    import torch

    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.subset(order[:size])
