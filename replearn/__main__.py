"""The command line: python -m replearn pretrain --recipe shapes --folder runs/shapes --minutes 5"""

import argparse
import json
import sys
from dataclasses import fields, replace

from replearn.pretrain.commands import _add_evaluate, _add_export
from replearn.serve.process import _add_serve


def _value(text):
    """Read a field's value: JSON where it is JSON ("[0.2, 1]", "null", "3"), else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _add_pretrain(commands):
    from replearn.pretrain.recipe import NAMED, Recipe

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
        group.add_argument(
            f"--{field.name.replace('_', '-')}", type=_value, default=argparse.SUPPRESS, metavar="X"
        )
    parser.set_defaults(run=_pretrain)


def _pretrain(args):
    from replearn import data
    from replearn.pretrain import NAMED, Recipe, distributed, pretrain

    given = vars(args)
    recipe = replace(
        NAMED[args.recipe], **{f.name: given[f.name] for f in fields(Recipe) if f.name in given}
    )
    distributed.join(args.device)
    train, test = distributed.first(
        lambda: (  # so that a download happens once
            data.load(recipe.data, size=args.size),
            data.load(recipe.data, split="test", size=args.test_size),
        )
    )
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


def main(arguments=None):
    """Run one of the commands; problems that a person can mend end in one sentence, without a traceback."""
    parser = argparse.ArgumentParser(prog="python -m replearn", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for add in (_add_pretrain, _add_evaluate, _add_export, _add_serve):
        add(commands)
    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
