"""What a bundle's forms of one encoder cost: size, time and accuracy of torch, ONNX and INT8 side by side."""

import time
from pathlib import Path

import numpy as np
import torch

from replearn.serve import bundle

BATCH = 64


def table(folder, test, *, threads=1, rounds=100):
    """Return (dict, text): what fp32 in torch, fp32 in ONNX and INT8 in ONNX cost and how well they do on `test`.

    test: ImageSet. A row's "mb": 10^6 bytes; "ms", "ms_p95": a single picture, median and 95th percentile of `rounds`
    taken by turns; "ms_batch": a picture in a batch of 64; "accuracy": share right by the bundle's head; "agreement":
    share answered as fp32 in torch does; "points": its accuracy minus that, in percentage points.
    Raises ValueError for a damaged bundle or pictures of another size."""
    folder = Path(folder).expanduser()
    opened = {
        name: bundle.open_bundle(folder, precision=name, threads=threads) for name in bundle.MODELS
    }
    first, images, labels = opened["fp32"], test.images.cpu().numpy(), test.labels.cpu().numpy()
    embeds = {
        "fp32 torch": _torch(folder),
        "fp32 ONNX": first.embed,
        "INT8 ONNX": opened["int8"].embed,
    }
    sizes = [
        (folder / name).stat().st_size / 1e6 for name in ("encoder.pt2", *bundle.MODELS.values())
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        answers = {name: _answers(first, embed, images) for name, embed in embeds.items()}
        times = _times(embeds, images, rounds)
    finally:
        torch.set_num_threads(before)
    right = {name: float((answer == labels).mean()) for name, answer in answers.items()}
    rows = {
        name: dict(
            mb=mb,
            **times[name],
            accuracy=right[name],
            agreement=float((answers[name] == answers["fp32 torch"]).mean()),
            points=100 * (right[name] - right["fp32 torch"]),
        )
        for name, mb in zip(embeds, sizes, strict=True)
    }
    found = dict(rows=rows, pictures=len(labels), threads=threads)
    return found, as_text(found)


def as_text(found):
    """Return what `table` measured as lines of text."""
    head = f"{'':12}{'MB':>8}{'ms, one':>10}{'p95':>8}{'ms, of 64':>12}{'accuracy':>11}{'agreement':>12}{'points':>9}"
    lines = [
        f"{name:12}{r['mb']:8.2f}{r['ms']:10.2f}{r['ms_p95']:8.2f}{r['ms_batch']:12.3f}{r['accuracy']:11.2%}"
        f"{r['agreement']:12.2%}{r['points']:+9.2f}"
        for name, r in found["rows"].items()
    ]
    return "\n".join(
        [head, *lines, f"{found['pictures']:,} test pictures, threads: {found['threads']}"]
    )


def _torch(folder):
    module = torch.export.load(folder / "encoder.pt2").module()

    @torch.inference_mode()
    def embed(images):
        parts = torch.from_numpy(images).split(256)
        return torch.cat([module(part.float() / 255) for part in parts]).numpy()

    return embed


def _answers(opened, embed, images):
    return (embed(images) @ opened.weight.T + opened.bias).argmax(1)


def _times(embeds, images, rounds):
    """Return milliseconds; the forms take turns, so that whatever else the machine does meets all of them."""
    one, many = {name: [] for name in embeds}, {name: [] for name in embeds}
    for i in range(rounds + 3):
        for name, embed in embeds.items():
            one[name].append(_ms(embed, images[i % len(images)][None]))
            if i % 10 == 0:
                many[name].append(_ms(embed, images[:BATCH]) / len(images[:BATCH]))
    return {
        name: dict(
            ms=float(np.median(one[name][3:])),
            ms_p95=float(np.percentile(one[name][3:], 95)),
            ms_batch=float(np.median(many[name])),
        )
        for name in embeds
    }


def _ms(embed, images):
    start = time.perf_counter()
    embed(images)
    return 1e3 * (time.perf_counter() - start)
