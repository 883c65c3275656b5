"""The commands that measure an encoder and that pack it; nothing heavy is loaded before one of them runs."""

from pathlib import Path


def _add_evaluate(commands):
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


def _evaluate(args):
    from replearn import data, models
    from replearn.pretrain import checkpoint
    from replearn.pretrain import log as progress
    from replearn.pretrain.evaluation import encoder_path, evaluate, load_encoder, random_like
    from replearn.pretrain.report import compare, figures, write

    encoder, about = load_encoder(args.encoder), models.card(encoder_path(args.encoder))
    encoders = {
        args.encoder: encoder,
        args.supervised: args.supervised and load_encoder(args.supervised),
        "untrained": random_like(encoder, seed=args.seed),
    }
    encoders = {name: _moved(network, args.device) for name, network in encoders.items() if network}
    supervised = encoders.get(args.supervised)
    if len({Path(name).name for name in encoders}) == len(
        encoders
    ):  # else the whole paths tell them apart
        encoders = {Path(name).name: network for name, network in encoders.items()}
    for folder in filter(None, (args.figure, args.json and Path(args.json).expanduser().parent)):
        checkpoint.prepare(folder)  # before the work, not after it
    name = args.data or str(about.get("data", "shapes")).split(":")[0]
    train, test = (
        data.load(name, size=args.size),
        data.load(name, split="test", size=args.test_size),
    )
    other = args.other and tuple(
        _part(data.load(args.other, split=s), args.size) for s in ("train", "test")
    )
    reports = {}
    for row, network in encoders.items():
        theirs = None if network is supervised else supervised
        reports[row] = evaluate(
            network, train, test, supervised=theirs, other=other, mixup=args.mixup, seed=args.seed
        )
        progress.say(f"{row}: {reports[row]['seconds']:.0f} s")
    print(f"{name}: {len(train):,} training and {len(test):,} test pictures\n{compare(reports)}")
    if args.json:
        path = Path(args.json).expanduser()
        write(
            path,
            dict(data=name, other=args.other, mixup=args.mixup, seed=args.seed, reports=reports),
        )
    if args.figure:
        log = Path(about["path"]).with_name("log.jsonl")
        figures(args.figure, encoder, reports, train, test, log if log.exists() else None)


def _moved(encoder, device):
    import torch

    try:
        return encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device: expected one of this machine, such as cpu, found {device!r}: {error}"
        ) from error


def _part(pictures, size):
    import torch

    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    return pictures.subset(order[:size])


def _add_export(commands):
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
    parser.add_argument("--size", type=int, help="fit the head to so many pictures (default: all)")
    parser.add_argument(
        "--test-size", type=int, default=2000, help="measure on so many pictures (default: 2000)"
    )
    parser.set_defaults(run=_export)


def _export(args):
    from replearn import data, models
    from replearn.pretrain.evaluation import encoder_path, load_encoder
    from replearn.serve.exporting import export
    from replearn.serve.measure import as_text

    encoder, card = load_encoder(args.encoder), models.card(encoder_path(args.encoder))
    name = args.data or str(card.get("data", "shapes")).split(":")[0]
    train, test = (
        data.load(name, size=args.size),
        data.load(name, split="test", size=args.test_size),
    )
    about = export(encoder, args.folder, train, test=test, side=train.images.shape[2], card=card)
    print(as_text(about["measured"]))
    print(f"bundle: {args.folder}")
