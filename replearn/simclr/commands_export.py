"""The command that packs an encoder: python -m replearn.simclr export runs/shapes bundles/shapes"""

import hashlib
from pathlib import Path


def _add_export(commands):
    parser = commands.add_parser("export", help="pack an encoder for others: weights, ONNX, INT8, a head, neighbors")
    parser.add_argument("encoder", metavar="ENCODER", help="a run's folder, a shipped encoder's name, or a path")
    parser.add_argument("folder", metavar="FOLDER", help="for the bundle; one that is there is replaced")
    parser.add_argument("--data", help="shapes, cifar10, … or a folder of pictures (default: what it was trained on)")
    parser.add_argument("--size", type=int, help="fit the head to so many pictures (default: all)")
    parser.add_argument("--test-size", type=int, default=2000, help="measure on so many pictures (default: 2000)")
    parser.set_defaults(run=_export)


def _export(args):
    from replearn import data
    from replearn.simclr.export import export
    from replearn.simclr.measure import as_text
    encoder, card = load_encoder(args.encoder)
    name = args.data or str(card.get("data", "shapes")).split(":")[0]
    train, test = data.load(name, size=args.size), data.load(name, split="test", size=args.test_size)
    about = export(encoder, args.folder, train, test=test, side=train.images.shape[2], card=card)
    print(as_text(about["measured"]))
    print(f"bundle: {args.folder}")


def load_encoder(name):
    """Return the encoder that `models.load` would, timm's included, and its card; `name` may be a run's folder."""
    from safetensors.torch import load

    from replearn import models
    from replearn.simclr.recipe import Recipe, networks
    name = Path(name) / "encoder" if Path(name).is_dir() else str(name).removesuffix(".safetensors")
    about = models.card(name)
    kind, width = about["architecture"]
    if not str(kind).startswith("timm:"):
        return models.load(name), about
    weights = Path(about["path"]).read_bytes()
    if hashlib.sha256(weights).hexdigest() != about["sha256"]:
        raise ValueError(f"{about['path']}: expected SHA-256 {about['sha256'][:12]}…: damaged, fetch it again")
    encoder, _ = networks(Recipe(network=kind, width=width))
    encoder.load_state_dict(load(weights))
    return encoder.eval(), about
