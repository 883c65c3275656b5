"""The service under load and under fire: milliseconds, memory, INT8 against fp32, and answers to bad pictures.

Run: python benchmarks/serve.py      (about 5 minutes, on a quiet machine; writes benchmarks/results/serve.json)
Two bundles are exported: the shipped `shapes_simclr`, and a ResNet-18 of width 64 with random weights and statistics,
whose speed is that of a trained one. Each is served at INT8 and fp32 by two threads and asked to /classify PNG
pictures: by one client, then by 8 at once, each of which asks again as soon as it has its answer. Clients and service
share the cores of this machine. Time is the client's, from the first byte sent to the last one read. Memory is the
service's resident set before and after the load. Then `shapes_simclr` is asked about pictures with bytes changed, cut
out and cut off, and of cases that schemathesis makes from openapi.json (--schemathesis PYTHON: an interpreter that
has it; it brings a pytest plugin, so better one of its own). Exits with an error if INT8's p50 with 8 clients is 40
ms or more, its accuracy on `shapes_simclr` more than 2 points below fp32's, memory grew by 20 MB or more, or an
answer was a 5xx other than a 503. Two minutes of load, for memory and errors: benchmarks/soak.py.
"""

import argparse
import http.client
import io
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from shared import cpu_model, write_atomically

RESULTS = Path(__file__).parent / "results" / "serve.json"
KINDS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}


def bundles(folder, size):
    """Export both bundles, if they are not there; return ({name: folder}, a test set)."""
    import torch

    from replearn import data, models
    from replearn.serve.exporting import export

    torch.set_num_threads(1)
    torch.manual_seed(0)
    train, test = data.load("shapes", size=size), data.load("shapes", split="test", size=1000)
    encoders = {
        "shapes_simclr": models.load("shapes_simclr"),
        "resnet18, random": models.resnet18(64).eval(),
    }
    for module in encoders["resnet18, random"].modules():
        if isinstance(
            module, torch.nn.BatchNorm2d
        ):  # all zeros and ones would keep onnxruntime from merging layers
            module.running_mean.normal_(0, 0.1)
            module.bias.data.normal_(0, 0.1)
    made = {}
    for name, encoder in encoders.items():
        print(f"exporting {name}", file=sys.stderr, flush=True)
        made[name] = folder / name.split(",")[0]
        if not made[name].exists():
            export(encoder, made[name], train)
    return made, test


def coded(image, kind, **options):
    """Return a picture uint8 (3, H, W) as the bytes of a file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.numpy().transpose(1, 2, 0)).save(file, kind, **options)
    return file.getvalue()


def accuracy(folder, precision, test):
    """Return the share of test pictures that the bundle's head gets right."""
    from replearn.serve.bundle import open_bundle

    bundle = open_bundle(folder, precision=precision)
    logits = bundle.embed(test.images.numpy()) @ bundle.weight.T + bundle.bias
    return float((logits.argmax(1) == test.labels.numpy()).mean())


def client(address, bodies, stop, seed, found):
    """Ask until `stop`; append (status, milliseconds) each time."""
    chance, connection = (
        random.Random(seed),
        http.client.HTTPConnection(address.removeprefix("http://"), timeout=60),
    )
    while not stop.is_set():
        begin = time.perf_counter()
        connection.request(
            "POST", "/classify", chance.choice(bodies), {"Content-Type": "image/png"}
        )
        answer = connection.getresponse()
        answer.read()
        found.append((answer.status, (time.perf_counter() - begin) * 1e3))
    connection.close()


def load(address, bodies, clients, seconds):
    """Return what so many clients measure together."""
    stop, found = threading.Event(), [[] for _ in range(clients)]
    threads = [
        threading.Thread(target=client, args=(address, bodies, stop, i, found[i]))
        for i in range(clients)
    ]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    elapsed, every = time.perf_counter() - begin, [row for rows in found for row in rows]
    times = sorted(ms for status, ms in every if status == 200)
    at = {
        f"p{q}_ms": round(times[min(len(times) - 1, len(times) * q // 100)], 2)
        for q in (50, 95, 99)
    }
    return dict(
        clients=clients,
        seconds=round(elapsed, 1),
        requests=len(every),
        statuses=dict(Counter(status for status, _ in every)),
        requests_a_second=round(len(every) / elapsed, 1),
        **at,
        max_ms=round(times[-1], 2),
    )


def serving(folder, precision):
    """Start the service; return (context manager, function that gives its memory in MB)."""
    import psutil

    from replearn.serve.process import start

    before = {p.pid for p in psutil.Process().children()}

    def megabytes():
        (own,) = [p for p in psutil.Process().children() if p.pid not in before]
        return round(own.memory_info().rss / 1e6, 1)

    return start(folder, precision=precision), megabytes


def measure(folder, precision, test, bodies, clients, seconds):
    """Return latency, memory, size and accuracy of one bundle at one precision."""
    from replearn.serve.bundle import MODELS

    begin = time.monotonic()
    service, megabytes = serving(folder, precision)
    with service as address:
        up = time.monotonic() - begin
        load(address, bodies, clients, min(2, seconds))  # to warm up
        alone, before = load(address, bodies, 1, min(5, seconds)), megabytes()
        crowd, after = load(address, bodies, clients, seconds), megabytes()
    return dict(
        start_seconds=round(up, 2),
        one_client=alone,
        load=crowd,
        memory_mb_start=before,
        memory_mb_end=after,
        model_mb=round((folder / MODELS[precision]).stat().st_size / 1e6, 2),
        accuracy=accuracy(folder, precision, test),
    )


def damaged(content, chance):
    """Flip some bytes of a picture, cut some out, or cut it off."""
    content = bytearray(content)
    for _ in range(chance.choice((1, 3, 30))):
        content[chance.randrange(len(content))] = chance.randrange(256)
    a, b = sorted(chance.randrange(len(content)) for _ in "ab")
    return bytes(chance.choice((content, content[:a], content[:a] + content[b:])))


def damage(address, pictures, cases):
    """Ask about so many damaged pictures; return how often each status came."""
    chance, seen = random.Random(0), Counter()
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    for _ in range(cases):
        kind, content = chance.choice(pictures)
        connection.request("POST", "/embed", damaged(content, chance), {"Content-Type": kind})
        answer = connection.getresponse()
        answer.read()
        seen[answer.status] += 1
    return dict(seen)


def fuzz(address, folder, cases):
    """Print how schemathesis's cases were answered; runs in an interpreter that has it."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    seeds = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    cut = st.tuples(st.sampled_from(seeds), st.integers(0, 3000)).map(
        lambda pair: pair[0][: pair[1]]
    )
    for kind in KINDS:  # its own choice would be one small picture
        schemathesis.openapi.media_type(kind, st.binary(max_size=3000) | cut)
    chosen = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    ]
    seen, problems = Counter(), []

    def run(operation, mode):
        @settings(
            max_examples=-(-cases // 3),
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case):
            answer = case.call()
            seen[f"{operation.path} {answer.status_code}"] += 1
            case.validate_response(answer, checks=chosen)

        try:
            ask()
        except Exception as error:
            if (
                type(error).__name__ != "Unsatisfiable"
            ):  # any body is valid as bytes: none to be made invalid
                problems.append(
                    f"{operation.path} {mode.value}: {type(error).__name__}: {error}"[:500]
                )

    for operation in schemathesis.openapi.from_url(f"{address}/openapi.json").get_all_operations():
        for mode in schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE:
            run(operation.ok(), mode)
    print(
        json.dumps(
            dict(
                cases=sum(seen.values()),
                answers=dict(sorted(seen.items())),
                problems=problems,
                server_errors=sum(n for name, n in seen.items() if name.split()[-1][0] == "5"),
                schemathesis=schemathesis.__version__,
            )
        )
    )


def under_fire(folder, test, cases, interpreter):
    """Return the answers to damaged pictures and to schemathesis's cases, and memory before and after."""
    seeds = [
        (kind, coded(image, name)) for image in test.images[:8] for kind, name in KINDS.items()
    ]
    service, megabytes = serving(folder, "int8")
    with service as address, tempfile.TemporaryDirectory() as place:
        for i, (_, content) in enumerate(seeds):
            (Path(place) / f"{i:02}").write_bytes(content)
        damage(address, seeds, cases // 4)  # to warm up
        before = megabytes()
        found = dict(damaged_pictures=damage(address, seeds, cases))
        command = [
            interpreter,
            __file__,
            "--cases",
            str(cases),
            "--address",
            address,
            "--seeds",
            place,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"schemathesis did not run: {done.stderr.strip()[-300:]}", file=sys.stderr)
        found["schemathesis"] = (
            None if done.returncode else json.loads(done.stdout.strip().splitlines()[-1])
        )
        return found | dict(memory_mb_start=before, memory_mb_end=megabytes())


def failures(record):
    """Return what was expected and not found."""
    rows, fire = record["bundles"], record["under_fire"]
    shapes = rows["shapes_simclr"]
    cases = fire["schemathesis"] or dict(server_errors=0, problems=[])
    grown = [
        row["memory_mb_end"] - row["memory_mb_start"]
        for r in (*rows.values(), {"": fire})
        for row in r.values()
    ]
    statuses = {
        int(s) for r in rows.values() for row in r.values() for s in row["load"]["statuses"]
    }
    return [
        words
        for words, bad in {
            "INT8's p50 under load: 40 ms or more": max(
                r["int8"]["load"]["p50_ms"] for r in rows.values()
            )
            >= 40,
            "INT8: more than 2 points below fp32": shapes["fp32"]["accuracy"]
            - shapes["int8"]["accuracy"]
            > 0.02,
            "memory: grew by 20 MB or more": max(grown) >= 20,
            "server errors": any(
                s >= 500 and s != 503 for s in (*statuses, *map(int, fire["damaged_pictures"]))
            )
            or cases["server_errors"],
            "schemathesis: found problems": cases["problems"],
        }.items()
        if bad
    ]


def main():
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=30, help="of load, for each bundle and precision"
    )
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument(
        "--size", type=int, default=2000, help="pictures that the bundles are made from"
    )
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--schemathesis", default=sys.executable, metavar="PYTHON")
    parser.add_argument(
        "--keep", type=Path, help="export the bundles into this folder, or use those that are there"
    )
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--seeds", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.address:
        return fuzz(args.address, args.seeds, args.cases)
    with tempfile.TemporaryDirectory() as place:
        record = measure_all(args, args.keep or Path(place))
    before = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    write_atomically(RESULTS, record | {name: before[name] for name in ("soak",) if name in before})
    print(json.dumps(record, indent=1))
    if found := failures(record):
        sys.exit("; ".join(found))


def measure_all(args, place):
    """Return the record."""
    import importlib.metadata

    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    made, test = bundles(place, args.size)
    bodies = [coded(image, "PNG") for image in test.images[:64]]
    rows = {}
    for name, folder in made.items():
        for precision in ("int8", "fp32"):
            print(f"{name}, {precision}", file=sys.stderr, flush=True)
            rows.setdefault(name, {})[precision] = measure(
                folder, precision, test, bodies, args.clients, args.seconds
            )
    fire = under_fire(made["shapes_simclr"], test, args.cases, args.schemathesis)
    packages = ("fastapi", "uvicorn", "onnxruntime", "numpy", "pillow", "torch")
    return dict(
        question="milliseconds of a /classify request, memory, and answers to bad pictures",
        bundles=rows,
        under_fire=fire,
        versions={name: importlib.metadata.version(name) for name in packages},
        cpu=cpu_model(),
        cpus=os.cpu_count(),
        load_average_before=busy,
        python=platform.python_version(),
        command=f"python benchmarks/serve.py --seconds {args.seconds:g} --cases {args.cases} --schemathesis PYTHON",
    )


if __name__ == "__main__":
    main()
