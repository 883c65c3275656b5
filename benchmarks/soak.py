"""Does the service leak? Eight clients for two minutes: its memory, its open files and threads, and every answer.

Run: python benchmarks/soak.py          (three minutes; becomes the entry "soak" of benchmarks/results/serve.json)
The shipped `shapes_simclr` at INT8 in a process of its own, two threads. Each client asks /classify again as soon as it
has its answer; one picture in four is damaged and must be refused with a 400. Memory is the service's resident set,
read every five seconds. Memory and errors need no quiet machine; the milliseconds are of a machine with the load
average beside them, and the quiet ones are those of benchmarks/serve.py.
Exits with an error if the second half's highest memory is 5 MB or more above the first half's, if files or threads were
left open, or if any answer was neither a 200 nor a 400.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import serve
from shared import machine, write_atomically


def bundle(folder, size):
    """Export the shipped encoder; return the bundle's folder and test pictures as PNG."""
    from replearn import data, models
    from replearn.serve.exporting import export

    export(models.load("shapes_simclr"), folder / "bundle", data.load("shapes", size=size))
    return folder / "bundle", [
        serve.coded(x, "PNG") for x in data.load("shapes", split="test", size=64).images
    ]


def open_files(own):
    """Return how many files and connections a process has open."""
    return own.num_handles() if os.name == "nt" else own.num_fds()


def sample(own, stop, seconds, found):
    """Append [seconds since the start, MB, open files, threads] of a process every so many seconds until `stop`."""
    begin = time.monotonic()
    while True:
        with own.oneshot():
            seconds_in, megabytes = (
                round(time.monotonic() - begin, 1),
                round(own.memory_info().rss / 1e6, 2),
            )
            found.append([seconds_in, megabytes, open_files(own), own.num_threads()])
        if stop.wait(seconds):
            return


def soak(folder, pictures, clients, seconds):
    """Return the answers and the samples of one service under load for so long."""
    import psutil

    from replearn.serve.process import start

    chance, before = random.Random(0), {p.pid for p in psutil.Process().children()}
    bodies = pictures * 3 + [serve.damaged(content, chance) for content in pictures]
    with start(folder, precision="int8") as address:
        (own,) = [p for p in psutil.Process().children() if p.pid not in before]
        serve.load(address, bodies, clients, min(3, seconds))  # to warm up
        stop, samples = threading.Event(), []
        watch = threading.Thread(target=sample, args=(own, stop, min(5, seconds / 10), samples))
        watch.start()
        answers = serve.load(address, bodies, clients, seconds)
        stop.set()
        watch.join()
        time.sleep(1)  # the last connections are closed
        left = open_files(own), own.num_threads()
    return dict(answers, samples=samples, open_files_left=left[0], threads_left=left[1])


def summary(found):
    """Return memory in halves, and what is wrong."""
    memory = [row[1] for row in found["samples"]]
    first, second = max(memory[: len(memory) // 2]), max(memory[len(memory) // 2 :])
    problems = {
        f"memory grew: {first} MB at most in the first half, {second} MB in the second": second
        - first
        >= 5,
        "open files were left": found["open_files_left"] > found["samples"][0][2],
        "threads were left": found["threads_left"] > found["samples"][0][3],
        f"answers: {found['statuses']}": set(found["statuses"]) - {200, 400},
    }
    highest = dict(memory_mb_most_first_half=first, memory_mb_most_second_half=second)
    return dict(
        memory_mb_start=memory[0],
        memory_mb_end=memory[-1],
        **highest,
        problems=[words for words, bad in problems.items() if bad],
    )


def main():
    """Run the soak and add it to the service's record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--size", type=int, default=2000, help="pictures in the bundle's index")
    parser.add_argument("--out", type=Path, default=serve.RESULTS)
    args = parser.parse_args()
    load_average = [round(x, 2) for x in os.getloadavg()]
    with tempfile.TemporaryDirectory() as place:
        found = soak(*bundle(Path(place), args.size), args.clients, args.seconds)
    found |= summary(found) | dict(
        load_average_before=load_average, load_average_after=[round(x, 2) for x in os.getloadavg()]
    )
    command = f"python benchmarks/soak.py --seconds {args.seconds:g} --clients {args.clients}"
    about = machine("fastapi", "uvicorn", "onnxruntime") | dict(command=command)
    whole = json.loads(args.out.read_text("utf-8")) if args.out.exists() else {}
    write_atomically(args.out, whole | dict(soak=found | about))
    print(json.dumps({name: value for name, value in found.items() if name != "samples"}, indent=1))
    sys.exit("; ".join(found["problems"]) or None)


if __name__ == "__main__":
    main()
