"""The commands `export` and `serve` of `python -m replearn`.

Adding a command to the parser loads nothing heavy: PyTorch comes with `export` when it runs, and
never with `serve`.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from replearn import _lock, _shipped
from replearn._command import did_you_mean, number, whole
from replearn._folders import cache_folder
from replearn._progress import Parts, duration, say
from replearn.files import explained


def add_export(commands: argparse._SubParsersAction) -> None:
    """Add the command `export`, which packs an encoder into a bundle and measures its forms.

    Args:
        commands: What `parser.add_subparsers()` returns.
    """
    parser = commands.add_parser(
        "export", help="pack an encoder for others: weights, ONNX, INT8, a head, neighbors"
    )
    parser.add_argument(
        "encoder", metavar="ENCODER", help="a run's folder, a shipped encoder's name, or a path"
    )
    parser.add_argument(
        "folder", metavar="FOLDER", help="for the bundle; one that is there is replaced"
    )
    parser.add_argument(
        "--data",
        help="shapes, cifar10, … or a folder of pictures (default: what it was trained on)",
    )
    parser.add_argument(
        "--size", type=whole(1), help="fit the head to so many pictures (default: all)"
    )
    parser.add_argument(
        "--test-size",
        type=whole(1),
        default=2000,
        help="measure on so many pictures at most (default: 2000)",
    )
    parser.add_argument("--json", metavar="FILE", help="write what bundle.json says there, too")
    parser.set_defaults(run=_export)


def add_serve(commands: argparse._SubParsersAction) -> None:
    """Add the command `serve`, which answers requests from a bundle until Ctrl-C.

    A shipped encoder is exported first, unless that was done before.

    Args:
        commands: What `parser.add_subparsers()` returns.
    """
    parser = commands.add_parser("serve", help="run an exported encoder as a service until Ctrl-C")
    parser.add_argument(
        "folder",
        help="a bundle, as `export` writes it, or the name of a shipped encoder, which is exported "
        "into the data folder first, once; for that on fewer pictures see `export`",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0: for the whole network (default: this machine)"
    )
    parser.add_argument("--port", type=whole(0, 65535), default=8000, help="0: any free one")
    parser.add_argument(
        "--precision",
        choices=("int8", "fp32"),
        help="default: what the bundle says, int8 unless the export measured that it loses "
        "more than 2 points",
    )
    parser.add_argument(
        "--workers",
        type=whole(1, 256),
        default=2,
        help="pictures worked on at a time, a thread and a process each",
    )
    parser.add_argument(
        "--queue", type=whole(0), default=16, help="pictures that may wait; all others get a 503"
    )
    parser.add_argument(
        "--max-bytes",
        type=whole(1),
        default=2_000_000,
        help="of a picture's file; larger ones get a 413 (default: 2000000)",
    )
    parser.add_argument(
        "--max-pixels",
        type=whole(1),
        default=4_000_000,
        help="width times height of a picture; larger ones get a 413 (default: 4000000)",
    )
    parser.add_argument(
        "--decode-seconds",
        type=number(0, above=True),
        default=2.0,
        help="for decoding a picture; longer ones are stopped and get a 413 (default: 2)",
    )
    # How `start` makes the service end together with the process that started it.
    parser.add_argument("--until-stdin-closes", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=_serve)


def _export(args: argparse.Namespace) -> None:
    say(f"exporting {args.encoder} into {args.folder}: weights, ONNX, INT8, a head, measurements")
    from replearn import data, models
    from replearn.files import writable_path, write_json
    from replearn.serve.exporting import check_place, export, seconds_of_parts
    from replearn.serve.measure import as_text

    check_place(args.folder)  # before the work, not after it
    if args.json:
        writable_path(args.json)
    encoder = models.load(args.encoder)
    card = models.card(args.encoder)
    name = args.data or models.labeled_data_name(card)
    side = card.get("side", data.SIDE)
    train = data.load(name, size=args.size, side=side)
    # Shapes are drawn: there are as many as one asks for, and drawing all takes its time.
    test = None if name == "shapes" else data.load(name, split="test", side=side)
    if test is None or len(test) > args.test_size:
        test = data.load(name, split="test", size=args.test_size, side=side)
    head = None
    tuned = models.load_head(args.encoder)
    if tuned is not None:
        weight, bias, class_names = tuned
        if class_names == list(train.class_names):
            head = weight, bias
            print("head: that of the fine-tuning")
        else:
            print("head: a new one, since the fine-tuning had other classes")
    seconds = seconds_of_parts(encoder, train, test)
    in_words = duration(max(1, sum(seconds.values())))
    say(f"{len(train):,} training and {len(test):,} test pictures: about {in_words}")
    with Parts("exporting", seconds) as shown:
        about = export(
            encoder,
            args.folder,
            train,
            test=test,
            side=side,
            card=card,
            head=head,
            callback=shown,
        )
    print(as_text(about["measured"]))
    print(f"served by default: {about['precision']} ({about['precision_reason']})")
    print(f"bundle: {args.folder}")
    if args.json:
        write_json(Path(args.json).expanduser(), about)


def _serve(args: argparse.Namespace) -> None:
    from replearn.serve.process import serve

    serve(
        _bundle_of(args.folder),
        host=args.host,
        port=args.port,
        precision=args.precision,
        workers=args.workers,
        queue=args.queue,
        max_bytes=args.max_bytes,
        max_pixels=args.max_pixels,
        decode_seconds=args.decode_seconds,
        until_stdin_closes=args.until_stdin_closes,
    )


def _bundle_of(name: str) -> str | Path:
    """Return the bundle's folder; that of a shipped encoder's name is made if it is missing."""
    from replearn.serve.bundle import previous_folder

    # What lies under this path goes first: somebody made it.
    path = Path(name).expanduser()
    if path.exists() or (path.name and previous_folder(path).exists()):
        return name
    known = _shipped.names()
    if name not in known:
        if Path(name).name == name and not name.startswith("~"):  # a word, and no path
            raise ValueError(
                f"no bundle {name!r}: expected a folder that `python -m replearn export` wrote, or "
                f"one of {known}{did_you_mean(name, known)}"
            )
        return name
    folder = _place_of_bundle(name)
    if _is_bundle(folder):
        say(f"{name}: exported before, into {folder}")
    else:
        _export_in_a_child(name, folder)
    return folder


def _place_of_bundle(name: str) -> Path:
    """Return where the bundle of a shipped encoder lies; other weights have another place."""
    return cache_folder() / "bundles" / f"{name}-{_shipped.sha256(name)[:12]}"


def _is_bundle(folder: Path) -> bool:
    from replearn.serve.bundle import read_manifest

    try:
        read_manifest(folder)
    except ValueError:  # none, or of another version of this package
        return False
    return True


def _export_in_a_child(name: str, folder: Path) -> None:
    """Export an encoder in a process of its own, since that of the service loads no PyTorch.

    Raises:
        SystemExit: The export failed, and has said why.
    """
    from replearn.serve import children

    command = [sys.executable, "-m", "replearn", "export", name, str(folder)]
    # All threads of the machine, unlike the children that answer requests.
    environment = {**os.environ, "PYTHONPATH": children.environment()["PYTHONPATH"]}
    with explained(folder.parent, "write the bundle"):
        folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _lock.held(folder.with_name(f"{folder.name}.lock")):
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL)
    except _lock.Held as holder:
        raise ValueError(
            f"{name}: expected that nobody else exports it into {folder}, found {holder}; wait for "
            "that, and repeat the command"
        ) from holder
    if done.returncode != 0:
        sys.exit(done.returncode)
