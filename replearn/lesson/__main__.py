"""`python -m replearn.lesson`: `sync`, `run`, `handout` make the course; `class`, `grade`, `slides` help to teach."""

import argparse
import json
import sys
from copy import deepcopy
from pathlib import Path

from replearn.lesson import build


def sync(args):
    """Bring generated blocks and paired notebooks up to date."""
    for source in build.sources(args.lessons):
        build.sync(source)
        print(f"notebooks/src/{source.name} and notebooks/{source.stem}.ipynb agree")
    return 0


def run(args):
    """Execute the notebooks and store their outputs, or measure the claims over seeds and store nothing but those."""
    rows, failed = [("notebook", "seconds", "claims held")], 0
    sources = build.sources(args.lessons)
    for position, source in enumerate(sources, 1):
        print(f"[{position}/{len(sources)}] {source.stem}", flush=True)
        measured = over_seeds(source, args) if args.seeds else once(source, args)
        failed += not measured[-1]
        rows.append((source.stem, f"{measured[0]:.1f}", measured[1]))
    rows.append(("total", f"{sum(float(row[1]) for row in rows[1:]):.1f}", f"{failed} failed" if failed else ""))
    print("\n" + build.table(rows))
    return int(failed > 0)


def environment(args, **more):
    """Variables for the kernel: the profile only where one was asked for."""
    return more | ({"REPLEARN_PROFILE": args.profile} if args.profile else {})


def once(source, args):
    """Execute one notebook strictly and store it; a notebook that fails is kept under build/failed/ to look at."""
    nb = build.sync(source)
    seconds, record, error = build.execute(nb, source.stem, **environment(args))
    text = build.notebook_text(build.clean(nb))
    claims = record.get("claims", [])
    if error is None:
        build.write_atomically(build.NOTEBOOKS / f"{source.stem}.ipynb", text)
        return seconds, f"{sum(claim['holds'] for claim in claims)} of {len(claims)}", True
    folder = build.ROOT / "build" / "failed"
    folder.mkdir(parents=True, exist_ok=True)
    build.write_atomically(folder / f"{source.stem}.ipynb", text)
    print(f"{error}\n{source.stem} failed; what it had reached is in build/failed/{source.stem}.ipynb", file=sys.stderr)
    return seconds, "failed", False


def over_seeds(source, args):
    """Execute copies at REPLEARN_SEED = 0 to N-1 and write which claims held to benchmarks/results/claims_NN.json."""
    nb, runs, total = build.sync(source), [], 0.0
    for seed in range(args.seeds):
        seconds, record, error = build.execute(
            deepcopy(nb), f"{source.stem} seed {seed}", strict=False, **environment(args, REPLEARN_SEED=str(seed))
        )
        total += seconds
        if error or not record:
            print(error or f"{source.stem}: no result; is lesson.finish() its last cell?", file=sys.stderr)
            return total, f"seed {seed} failed", False
        held = sum(claim["holds"] for claim in record["claims"])
        print(f"  seed {seed}: {held} of {len(record['claims'])} claims held, {seconds:.0f} s", flush=True)
        runs.append(record)
    claims = summary(runs)
    command = f"python -m replearn.lesson run {source.stem[:2]} --seeds {args.seeds}"
    record = dict(
        notebook=source.stem,
        command=command + (f" --profile {args.profile}" if args.profile else ""),
        seeds=list(range(args.seeds)),
        profile=runs[0]["profile"],
        data=runs[0]["data"],
        versions=runs[0]["versions"],
        claims=claims,
    )
    build.RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    build.write_atomically(build.RESULTS / f"claims_{source.stem[:2]}.json", text)
    always = sum(all(claim["held"]) for claim in claims)
    return total, f"{always} of {len(claims)} at all {args.seeds} seeds", always == len(claims)


def summary(runs):
    """For every claim of any run: whether it held and its numbers, one entry a seed (False, {} where it is missing)."""
    found = [{claim["sentence"]: claim for claim in run["claims"]} for run in runs]
    nothing = dict(holds=False, numbers={})
    return [
        dict(
            sentence=sentence,
            held=[claims.get(sentence, nothing)["holds"] for claims in found],
            numbers=[claims.get(sentence, nothing)["numbers"] for claims in found],
        )
        for sentence in dict.fromkeys(sentence for claims in found for sentence in claims)
    ]


def classroom(args):
    """Write an nbgrader course and student notebooks: the exercises of every lesson."""
    from replearn.lesson import classroom

    rows = [("notebook", "exercises", "points")]
    for name, number, worth in classroom.course(args.folder, build.sources(args.lessons), full=args.full):
        rows.append((name, str(number), str(worth) if number else "no exercises: left out"))
    print(build.table(rows))
    print(f"\n{args.folder / 'source'} for nbgrader, {args.folder / 'student'} to hand out")
    return 0


def grade(args):
    """Grade a folder of notebooks: exercise cells only, each in a process of its own; no server."""
    try:
        from replearn.lesson import grading
    except ModuleNotFoundError as error:
        raise SystemExit(f"grade: needs Linux or macOS (in Windows: WSL), found no module {error.name}") from None
    show = (lambda text: print(f"\r\033[K{text}", end="", flush=True)) if sys.stdout.isatty() else (lambda text: None)
    grades = grading.grade(args.folder, seconds=args.seconds, memory=args.memory, tell=show)
    show("\r")
    path = args.csv or args.folder / "grades.csv"
    grading.write_csv(grades, path)
    print(f"{grading.table(grades)}\n\n{len({one.notebook for one in grades})} notebooks; {path}")
    return 0


def slides(args):
    """Write the slides of the lessons, from the stored notebooks: HTML that needs no network."""
    from replearn.lesson import slides_page

    rows, sources = [("lesson", "slides")], build.sources(args.lessons)
    if not args.lessons:  # all that have been executed
        sources = [source for source in sources if (build.NOTEBOOKS / f"{source.stem}.ipynb").exists()]
    for name, count in slides_page.write(sources, args.folder):
        rows.append((name, str(count)))
    print(f"{build.table(rows)}\n\nOpen {args.folder / 'index.html'}")
    return 0


def handout(args):
    """Write the page of formulas as a PDF, on A4 and on letter paper."""
    from replearn.lesson import handout

    for path in handout.write(args.folder):
        print(path)
    return 0


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m replearn.lesson", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for function in (sync, run):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.add_argument("lessons", nargs="*", metavar="NN", help="numbers of lessons (default: all)")
        command.set_defaults(function=function)
    command.add_argument("--profile", choices=("cpu", "gpu"), help="budgets to use (default: by the machine)")
    command.add_argument("--seeds", type=int, default=0, metavar="N", help="measure the claims at seeds 0 to N-1")
    command = commands.add_parser("class", help=classroom.__doc__)
    command.add_argument("folder", type=Path, help="a new folder")
    command.add_argument("lessons", nargs="*", metavar="NN", help="numbers of lessons (default: all)")
    command.add_argument("--full", action="store_true", help="the whole lessons, not their exercises only")
    command.set_defaults(function=classroom)
    command = commands.add_parser("grade", help=grade.__doc__)
    command.add_argument("folder", type=Path, help="notebooks in it or its folders; the first folder is the student's")
    command.add_argument("--csv", type=Path, help="the table as a file (default: FOLDER/grades.csv)")
    command.add_argument("--seconds", type=float, default=10.0, help="time for one exercise (default: 10)")
    command.add_argument("--memory", type=int, default=1024, help="MB for one exercise (default: 1024)")
    command.set_defaults(function=grade)
    command = commands.add_parser("slides", help=slides.__doc__)
    command.add_argument("lessons", nargs="*", metavar="NN", help="numbers of lessons (default: all)")
    command.add_argument("--folder", type=Path, default=Path("build/slides"), help="where to (default: build/slides)")
    command.set_defaults(function=slides)
    command = commands.add_parser("handout", help=handout.__doc__)
    command.add_argument("--folder", type=Path, default=build.ROOT / "site" / "_static", help="default: site/_static")
    command.set_defaults(function=handout)
    args = parser.parse_args(arguments)
    return args.function(args)


if __name__ == "__main__":
    sys.exit(main())
