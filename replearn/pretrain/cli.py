"""The commands `pretrain`, `evaluate` and `finetune` of `python -m replearn`.

Adding a command to the parser loads nothing heavy: PyTorch comes with a command when it runs.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replearn._command import MOST_SEED, number, whole
from replearn._progress import Parts, counted, duration, say
from replearn.pretrain.recipe import CONTRASTIVE, NAMED, Recipe

if TYPE_CHECKING:
    from torch import nn

    from replearn.data import ImageSet
    from replearn.pretrain.board import TensorBoard
    from replearn.pretrain.loop import Result

UNTRAINED = "untrained"  # the row of the table for an encoder whose weights were drawn


def add_pretrain(commands: argparse._SubParsersAction) -> None:
    """Add the command `pretrain`, which trains an encoder or goes on where it was stopped.

    Args:
        commands: What `parser.add_subparsers()` returns.
    """
    parser = commands.add_parser(
        "pretrain",
        help="train an encoder; the same command again goes on where it stopped, and with more "
        "epochs or minutes it goes on longer",
    )
    parser.add_argument(
        "--recipe", choices=sorted(NAMED), default="course", help="where all other fields come from"
    )
    parser.add_argument("--folder", help="for checkpoints, the log and the encoder")
    parser.add_argument(
        "--no-resume", action="store_true", help="start over, whatever is in the folder"
    )
    parser.add_argument(
        "--size",
        type=whole(1),
        help="train on so many pictures (default: all); their pixels are --side",
    )
    parser.add_argument(
        "--test-size", type=whole(1), help="measure kNN on so many pictures (default: all)"
    )
    parser.add_argument(
        "--probe-data",
        metavar="DATA",
        help="measure kNN on these pictures with labels (default: those of --data, if it has any)",
    )
    parser.add_argument(
        "--knn-every",
        type=whole(0),
        default=5,
        help="measure kNN every so many epochs; 0: at the end only",
    )
    parser.add_argument(
        "--log-every", type=whole(1), default=20, help="a record every so many steps"
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=number(0),
        default=60,
        help="a checkpoint every so many seconds",
    )
    parser.add_argument("--device", help="cpu, cuda, …; default: a GPU if there is one")
    parser.add_argument("--compile", action="store_true", help="torch.compile, on a GPU")
    parser.add_argument("--json", metavar="FILE", help="write the last record of the log there")
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write the log's numbers as event files, too, into FOLDER/tensorboard",
    )
    group = parser.add_argument_group("fields of the recipe, to change them")
    for field in fields(Recipe):
        option = f"--{field.name.replace('_', '-')}"
        # A folder may be called 2026, or null.
        value = str if field.type in (str, "str") else _field_value
        # A field that is not given is not there at all: None would be a value.
        if isinstance(field.default, bool):
            group.add_argument(option, action="store_true", default=argparse.SUPPRESS)
        else:
            group.add_argument(option, type=value, default=argparse.SUPPRESS, metavar="X")
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
        "encoder",
        help="the name of a shipped or released encoder, a path of models.save, or the folder of a "
        "pretraining",
    )
    parser.add_argument(
        "--data",
        help="shapes, digits, cifar10, a folder of pictures; default: what it was trained on",
    )
    parser.add_argument(
        "--size", type=whole(1), help="so many training pictures for the probes (default: all)"
    )
    parser.add_argument("--test-size", type=whole(1), help="so many test pictures (default: all)")
    parser.add_argument(
        "--supervised", metavar="ENCODER", help="one more row, and the other side of CKA"
    )
    parser.add_argument("--other", metavar="DATA", help="a second set of pictures, to transfer to")
    parser.add_argument(
        "--mixup",
        type=number(0),
        default=0.0,
        help="mixup's alpha in the SGD probe (default: no mixup)",
    )
    parser.add_argument(
        "--seed",
        type=whole(0, MOST_SEED),
        default=0,
        help="of the probes and of the untrained encoder",
    )
    parser.add_argument("--device", help="cpu, cuda, …; default: a GPU if there is one")
    parser.add_argument("--json", metavar="FILE", help="write the reports there")
    parser.add_argument(
        "--figure", metavar="FOLDER", help="write gallery, audit card and curves there, as PNG"
    )
    parser.set_defaults(run=_evaluate)


def _check_text(path: str) -> None:
    """Raise unless a path can be written into a card, which is UTF-8."""
    try:
        str(Path(path).expanduser().resolve()).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"data: expected a path that is text, found one with other bytes, {path!r}, which the "
            "encoder's card could not remember; rename the folder"
        ) from error


def add_finetune(commands: argparse._SubParsersAction) -> None:
    """Add the command `finetune`, which teaches an encoder the classes of labeled images.

    Args:
        commands: What `parser.add_subparsers()` returns.
    """
    parser = commands.add_parser(
        "finetune",
        help="teach an encoder classes: a head, then all of it; a table before and after",
    )
    parser.add_argument(
        "encoder", help="a shipped encoder, a path of models.save, or the folder of a pretraining"
    )
    parser.add_argument(
        "--data", required=True, help="labeled pictures: shapes, cifar10, … or a folder"
    )
    parser.add_argument(
        "--folder", help="for the new encoder and its head (default: ENCODER-finetuned)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--head-only", action="store_true", help="a linear probe's solution; the encoder stays"
    )
    how.add_argument(
        "--all",
        action="store_true",
        help="then everything, with a lower rate for the encoder (default)",
    )
    few = parser.add_mutually_exclusive_group()
    few.add_argument("--shots", type=whole(1), help="train on so many pictures of each class")
    few.add_argument("--size", type=whole(1), help="train on so many pictures (default: all)")
    parser.add_argument(
        "--test-size", type=whole(1), help="test on so many pictures (default: all)"
    )
    parser.add_argument(
        "--epochs", type=number(0, above=True), default=20, help="passes (default: 20)"
    )
    parser.add_argument(
        "--batch-size", type=whole(2), default=64, help="pictures a step (default: 64)"
    )
    parser.add_argument(
        "--lr", type=number(0, above=True), default=1e-3, help="of the head (default: 0.001)"
    )
    parser.add_argument(
        "--backbone-lr", type=number(0), default=1e-4, help="of the encoder (default: 0.0001)"
    )
    parser.add_argument(
        "--flip", type=number(0), default=0.5, help="probability of mirroring (default: 0.5)"
    )
    parser.add_argument(
        "--seed", type=whole(0, MOST_SEED), default=0, help="of order, crops and the few pictures"
    )
    parser.add_argument("--device", help="cpu, cuda, …; default: a GPU if there is one")
    parser.add_argument("--json", metavar="FILE", help="write the report there")
    parser.set_defaults(run=_finetune)


def _field_value(text: str) -> Any:
    """Read a field's value: JSON where it is JSON ("[0.2, 1]", "null", "3"), else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _pretrain(args: argparse.Namespace) -> None:
    if os.environ.get("RANK", "0") == "0":  # before PyTorch is loaded, which takes a few seconds
        say(_pretraining_in_words(args))
    from replearn import data
    from replearn.files import writable_path
    from replearn.pretrain import distributed, pretrain
    from replearn.pretrain.planning import too_short

    recipe = _recipe(args)
    if args.json:  # before the work, not after it
        writable_path(args.json)
    if args.size is not None and args.size < recipe.batch_size:
        raise ValueError(
            f"--size: expected {recipe.batch_size} or more, the --batch-size, found {args.size} "
            "pictures; their height and width in pixels are --side"
        )
    probe_data = args.probe_data or recipe.data
    is_monitored = args.probe_data is not None or not recipe.unlabeled

    def load_sets() -> tuple["ImageSet", tuple["ImageSet", "ImageSet"] | None]:
        train = data.load(recipe.data, size=args.size, side=recipe.side, unlabeled=recipe.unlabeled)
        if not is_monitored:
            return train, None
        neighbors = train
        if args.probe_data is not None:
            neighbors = data.load(probe_data, side=recipe.side)
        test = data.load(probe_data, split="test", size=args.test_size, side=recipe.side)
        return train, (neighbors, test)

    distributed.join(args.device)
    with _tensorboard(args, distributed.rank()) as board:
        train, knn = distributed.first(load_sets)  # so that a download happens once
        if recipe.unlabeled and distributed.rank() == 0:
            _say_unlabeled(recipe, len(train), is_monitored)
        if recipe.minutes is None and distributed.rank() == 0:
            warning = too_short(round(recipe.epochs * (len(train) // recipe.batch_size)))
            if warning is not None:
                say(warning)
        result = pretrain(
            recipe,
            train.images,
            folder=args.folder,
            resume=not args.no_resume,
            knn=knn,
            knn_every=args.knn_every,
            labels=train.labels,
            callback=board,
            device=args.device,
            compile=args.compile,
            log_every=args.log_every,
            checkpoint_seconds=args.checkpoint_seconds,
        )
    if distributed.rank() == 0 and result.history:
        _tell_result(args, recipe, result, knn)
    distributed.leave()


def _pretraining_in_words(args: argparse.Namespace) -> str:
    """Return what a command will do, as far as its words say it."""
    fields_given = {**asdict(NAMED[args.recipe]), **vars(args)}
    length = f"epochs: {fields_given['epochs']} (how long they take is said after the first steps)"
    if fields_given["minutes"] is not None:
        length = f"minutes: {fields_given['minutes']}"
    place = f"; into {args.folder}" if args.folder else ", kept nowhere (no --folder)"
    return (
        f"pretraining by the recipe {args.recipe}: {fields_given['network']} of width "
        f"{fields_given['width']} on {fields_given['data']}, pictures a step: "
        f"{fields_given['batch_size']}, {length}{place}"
    )


def _tell_result(
    args: argparse.Namespace,
    recipe: Recipe,
    result: "Result",
    knn: tuple["ImageSet", "ImageSet"] | None,
) -> None:
    """Print what came of a pretraining, beside untrained weights; write it as JSON if asked to."""
    from replearn.pretrain import report
    from replearn.pretrain.evaluation import knn_beside

    record = dict(result.history[-1])
    if knn is not None:
        record |= knn_beside(result.encoder, *knn, seed=recipe.seed)
    loss_unit = "nats" if recipe.loss in CONTRASTIVE else "minus a cosine"
    print(report.result(record, folder=args.folder, loss_unit=loss_unit))
    if args.json:
        report.write(Path(args.json).expanduser(), record)


def _recipe(args: argparse.Namespace) -> Recipe:
    """Return the recipe that was asked for; a flat folder is unlabeled, and its path absolute."""
    given = vars(args)
    changes = {field.name: given[field.name] for field in fields(Recipe) if field.name in given}
    recipe = replace(NAMED[args.recipe], **changes)
    if not _is_folder(recipe.data):
        return recipe
    _check_text(recipe.data)
    from replearn.data.folder import is_flat

    # The card remembers the path, and may be read in another working folder.
    path = Path(recipe.data).expanduser().resolve()
    return replace(recipe, data=str(path), unlabeled=recipe.unlabeled or is_flat(path))


def _say_unlabeled(recipe: Recipe, count: int, is_monitored: bool) -> None:
    consequence = "no kNN and no online probe; --probe-data LABELED_FOLDER gives a kNN accuracy"
    if is_monitored:
        consequence = "no online probe; kNN is measured on --probe-data"
    say(f"{recipe.data}: {count:,} pictures without labels: {consequence}")


@contextmanager
def _tensorboard(args: argparse.Namespace, rank: int) -> Iterator["TensorBoard | None"]:
    """Yield a callback for TensorBoard, if it was asked for; it raises before any work."""
    if not args.tensorboard:
        yield None
        return
    from replearn.pretrain.board import FOLDER, TensorBoard

    if not args.folder:
        raise ValueError("--tensorboard: expected a --folder for the event files, found none")
    with TensorBoard(Path(args.folder).expanduser() / FOLDER) as board:
        yield board if rank == 0 else None


def _finetune(args: argparse.Namespace) -> None:
    parts = (
        "a head" if args.head_only else f"a head, then all of it in {counted(args.epochs, 'epoch')}"
    )
    say(f"fine-tuning {args.encoder} on {args.data}: {parts}")
    from replearn import data, models
    from replearn.files import writable_path
    from replearn.pretrain import finetuning
    from replearn.pretrain.report import write

    card = models.card(args.encoder)
    encoder = _moved(models.load(args.encoder), args.device)
    folder = args.folder or f"{args.encoder.rstrip('/').removesuffix('.safetensors')}-finetuned"
    folder = finetuning.writable(folder)
    if args.json:
        writable_path(args.json)
    side = card.get("side", data.SIDE)
    train = data.load(args.data, size=args.size, seed=args.seed, side=side)
    if args.shots is not None:
        train = _few_of_each(train, args.shots, args.seed)
    test = data.load(args.data, split="test", size=args.test_size, side=side)
    if _is_folder(args.data):
        _check_text(args.data)
    settings = dict(
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        backbone_lr=args.backbone_lr,
        flip=args.flip,
        seed=args.seed,
    )
    result = finetuning.finetune(encoder, train, test, head_only=args.head_only, **settings)
    name = str(Path(args.data).expanduser().resolve()) if _is_folder(args.data) else args.data
    finetuning.save(folder, result, card=card, data=name, settings=settings)

    print(f"{name}: {len(train):,} training and {len(test):,} test pictures, accuracy in %")
    print("before: a linear probe of the encoder as it was")
    if args.head_only:
        print("after: the same, since only the head was trained: it is the probe's")
    print(finetuning.table(result.report))
    warning = finetuning.warning(result.report)
    if warning:
        print(f"warning: {warning}")
    print(f"encoder and head: {folder}")
    if args.json:
        write(Path(args.json).expanduser(), result.report)


def _is_folder(name: str) -> bool:
    known = ("", "cifar10", "digits", "pneumonia", "shapes")  # Path("") is the working folder
    return name not in known and Path(name).expanduser().is_dir()


def _few_of_each(images: "ImageSet", shots: int, seed: int) -> "ImageSet":
    """Return so many images of each class, drawn at random."""
    from replearn.data import rank_in_class

    labels = images.require_labels("--data")
    smallest = int(labels.bincount(minlength=len(images.class_names)).min())
    if not 1 <= shots <= smallest:
        raise ValueError(
            f"--shots: expected 1 to {smallest}, the pictures of the smallest class, found {shots}"
        )
    return images.subset(rank_in_class(labels.numpy(), seed) < shots)


def _evaluate(args: argparse.Namespace) -> None:
    say(
        f"evaluating {args.encoder} beside untrained weights: probes, kNN, few labels, audit; how "
        "long it takes is said once PyTorch and the pictures are loaded"
    )
    from replearn import data, models
    from replearn.files import writable_folder, writable_path
    from replearn.pretrain.evaluation import evaluate, seconds_of_parts
    from replearn.pretrain.log import LOG
    from replearn.pretrain.report import below_untrained, compare, figures, write

    card = models.card(args.encoder)
    name = args.data or models.labeled_data_name(card)
    side = card.get("side", data.SIDE)
    encoders = _encoders(args, side)
    supervised = encoders.get(args.supervised)
    encoder = encoders[args.encoder]
    if args.figure:  # before the work, not after it
        writable_folder(args.figure)
    if args.json:
        writable_path(args.json)

    train = data.load(name, size=args.size, side=side)
    test = data.load(name, split="test", size=args.test_size, side=side)
    other = _other_sets(args, side)
    reports = {}
    rows = _short_names(encoders)
    parts = seconds_of_parts(encoder, train, test, other=other)
    about = duration(max(1, len(rows) * sum(parts.values())))
    say(f"{len(rows)} encoders on {len(train):,} and {len(test):,} pictures: about {about}")
    seconds = {f"{row}: {part}": value for row in rows for part, value in parts.items()}
    with Parts("evaluating", seconds) as shown:
        for row, network in rows.items():
            reports[row] = evaluate(
                network,
                train,
                test,
                supervised=None if network is supervised else supervised,
                other=other,
                mixup=args.mixup,
                seed=args.seed,
                callback=_named_after(row, shown),
            )

    print(f"{name}: {len(train):,} training and {len(test):,} test pictures")
    print(compare(reports))
    for row in reports:
        warning = below_untrained(row, reports[row], reports[UNTRAINED])
        if warning is not None:
            print(warning)
    if args.json:
        content = dict(
            data=name, other=args.other, mixup=args.mixup, seed=args.seed, reports=reports
        )
        write(Path(args.json).expanduser(), content)
    if args.figure:
        log = Path(card["path"]).with_name(LOG)
        figures(args.figure, encoder, reports, train, test, log if log.exists() else None)


def _named_after(row: str, shown: Parts) -> Callable[[str], None]:
    """Return a function that shows a part of one encoder's report."""

    def show(part: str) -> None:
        shown(f"{row}: {part}")

    return show


def _encoders(args: argparse.Namespace, side: int) -> dict[str, "nn.Module"]:
    """Return the encoders to measure, in the order of the table's rows."""
    from replearn import data, models
    from replearn.pretrain.evaluation import random_like

    encoder = models.load(args.encoder)
    encoders = {args.encoder: encoder}
    if args.supervised:
        other_side = models.card(args.supervised).get("side", data.SIDE)
        if other_side != side:
            raise ValueError(
                f"--supervised {args.supervised}: expected an encoder of pictures of side {side}, "
                f"as {args.encoder}, found {other_side}"
            )
        encoders[args.supervised] = models.load(args.supervised)
    encoders[UNTRAINED] = random_like(encoder, seed=args.seed)
    return {name: _moved(network, args.device) for name, network in encoders.items()}


def _short_names(encoders: dict[str, "nn.Module"]) -> dict[str, "nn.Module"]:
    """Name each encoder by the last part of its path, if that tells them apart."""
    short = {Path(name).name: network for name, network in encoders.items()}
    return short if len(short) == len(encoders) else encoders


def _moved(encoder: "nn.Module", device: str | None) -> "nn.Module":
    from replearn import _device

    return encoder.to(_device.named(device))


def _other_sets(args: argparse.Namespace, side: int) -> tuple["ImageSet", "ImageSet"] | None:
    """Return a training and a test set to transfer to, each cut down to --size."""
    if not args.other:
        return None
    from replearn import data

    train = data.load(args.other, side=side)
    test = data.load(args.other, split="test", side=side)
    return _random_part(train, args.size), _random_part(test, args.size)


def _random_part(images: "ImageSet", size: int | None) -> "ImageSet":
    import torch

    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images.subset(order[:size])
