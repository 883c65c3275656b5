"""`Lesson`: the header, the budgets, the predictions, the measured claims and the exercises of one notebook."""

import html
import itertools
import json
import os
import platform
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from replearn import __version__
from replearn.lesson import exercises
from replearn.lesson import formatting as plain
from replearn.lesson.display import KEEP_KEYS, is_static, show

LESSONS = {  # number: title, data set, minutes to expect on 2 CPU cores
    "01": ("What is a representation?", "shapes", 2),
    "02": ("Linear probing", "shapes", 2),
    "03": ("Comparing representations: CKA", "shapes", 2),
    "04": ("Supervised learning and transfer", "shapes and digits", 2),
    "05": ("Variational autoencoders", "shapes", 2),
    "06": ("Contrastive learning: SimCLR", "shapes", 2),
    "07": ("Many views: from CCA to CLIP", "shapes and their captions", 2),
    "08": ("Identifiability and the iVAE", "synthetic mixtures and shapes", 2),
    "09": ("Information: InfoNCE and its limits", "correlated Gaussians and shapes", 2),
    "10": ("Collapse", "shapes", 2),
    "11": ("Auditing what was learned", "shapes", 2),
    "12": ("Build it: mini-SimCLR on a T4", "shapes", 2),
}
_BOX = "border:1px solid #8888;border-radius:6px;padding:.6em 1em;margin:.5em 0;color:inherit"


class ClaimError(AssertionError):
    """A claim of the notebook does not hold, and `REPLEARN_STRICT=1` says that this must stop the run."""


class Lesson:
    """One notebook's lesson: shows title, device, data and minutes to expect; seeds torch with `$REPLEARN_SEED` (0).

    Attributes: number ("03"), title, device, profile_name ("cpu" or "gpu"), seed, claims (list of dicts).
    Environment: REPLEARN_PROFILE, REPLEARN_SEED, REPLEARN_STRICT=1, REPLEARN_STATIC=1, REPLEARN_RESULTS=folder.
    """

    def __init__(self, number):
        self.number = f"{int(number):02d}" if str(number).isdigit() else str(number)
        if self.number not in LESSONS:
            raise ValueError(
                f"Lesson: expected a number from 01 to {max(LESSONS)}, found {number!r}"
            )
        self.title, self.data, minutes = LESSONS[self.number]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.profile_name = os.environ.get("REPLEARN_PROFILE") or (
            "gpu" if self.device.type == "cuda" else "cpu"
        )
        if self.profile_name not in ("cpu", "gpu"):
            raise ValueError(f"REPLEARN_PROFILE: expected cpu or gpu, found {self.profile_name!r}")
        self.seed = int(os.environ.get("REPLEARN_SEED") or 0)
        torch.manual_seed(self.seed)
        self.claims, self._hints, self._questions = [], {}, itertools.count(1)
        self._started = time.perf_counter()
        _style_plots()
        threads = f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
        hardware = torch.cuda.get_device_name() if self.device.type == "cuda" else f"CPU, {threads}"
        facts = {
            "Device": f"{hardware} ({self.profile_name} profile)",
            "Data": self.data,
            "Time": f"about {minutes} minutes for all cells"
            if self.profile_name == "cpu"
            else "more pictures and steps than on a CPU; not timed yet on a GPU",
        }
        rows = "<br>".join(f"<b>{name}</b> {_safe(fact)}" for name, fact in facts.items())
        heading = f"Lesson {self.number} · {self.title}"
        show(
            f'<div style="{_BOX}"><b style="font-size:1.15em">{_safe(heading)}</b><br>{rows}</div>',
            "\n".join([heading, *(f"{name}: {fact}" for name, fact in facts.items())]),
        )

    def __repr__(self):
        return f"Lesson({self.number!r})"

    def profile(self, *, cpu, gpu):
        """The budgets for this machine as a namespace; `$REPLEARN_PROFILE` (cpu or gpu) overrides the choice."""
        if cpu.keys() != gpu.keys():
            alone = sorted(cpu.keys() ^ gpu.keys())
            raise ValueError(
                f"profile: expected the same names in cpu and gpu, found {alone} in one of them only"
            )
        return SimpleNamespace(**(gpu if self.profile_name == "gpu" else cpu))

    def photographs(self, *, train=None, test=None, name="cifar10"):
        """Two ImageSets (train, test) of real photographs, or None after one sentence that says why and what to do.

        train, test: how many pictures (None: all). name: "cifar10", or the path of your own folder of images.
        """
        from replearn import data

        advice = (
            "To get them, use a GPU, or put CIFAR-10 into the folder that $REPLEARN_DATA names."
        )
        if name == "cifar10" and self.profile_name == "cpu" and not data.available(name):
            print(
                f"No photographs: CIFAR-10 is not on this disk, and without a GPU it is not downloaded. {advice}"
            )
            return None
        try:
            sets = [
                data.load(name, split=split, size=size, seed=self.seed)
                for split, size in (("train", train), ("test", test))
            ]
        except (
            Exception
        ) as error:  # offline, no space, a broken file: the lesson goes on without photographs
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"No photographs: {reason} {advice}")
            return None
        self.data = f"{LESSONS[self.number][1]} and {name}"
        return tuple(sets)

    def predict(self, question, options, *, answer=None):
        """Show a question with options to commit to before the measurement; never waits for an answer."""
        name = f"predict-{self.number}-{next(self._questions)}"
        page = [
            f'<fieldset id="{name}" style="{_BOX}" {KEEP_KEYS}><legend><b>Predict</b></legend>{_safe(question)}'
        ]
        for i, option in enumerate(options, 1):
            page.append(
                f'<label style="display:block;padding:2px 0"><input type="radio" name="{name}" id="{name}-{i}" '
                f'value="{i}" autocomplete="off"> {_safe(option)}</label>'
            )
        if answer is not None:
            page.append(
                f'<details style="margin-top:.4em"><summary>Answer</summary>{_safe(answer)}</details>'
            )
        text = [f"Predict: {question}", *(f"  ( ) {option}" for option in options)]
        show("".join([*page, "</fieldset>"]), "\n".join(text))

    def claim(self, sentence, holds, **numbers):
        """Print ✓ or ✗, the sentence and its numbers; with `REPLEARN_STRICT=1` a ✗ raises ClaimError.

        holds: one True or False (Python, numpy or torch). numbers: shown with 3 digits; a pair (0.81, "%") is shown as
        81 %, a pair (3.2, "s") as 3.2 s. A NaN among the numbers means that the claim does not hold.
        """
        if np.shape(holds) != () or "bool" not in str(getattr(holds, "dtype", type(holds))):
            raise TypeError(
                f"claim: expected one True or False, found {holds!r}; compare first, or use .all()"
            )
        pairs = {
            name: value if isinstance(value, tuple) and isinstance(value[-1], str) else (value, "")
            for name, value in numbers.items()
        }
        values = {name: plain.plain(value) for name, (value, _) in pairs.items()}
        holds = bool(holds) and not any(map(plain.has_nan, values.values()))
        shown = ", ".join(
            f"{name.replace('_', ' ')} {plain.text(values[name], pairs[name][1])}"
            for name in values
        )
        text = f"{'✓' if holds else '✗'} {sentence}" + (f" ({shown})" if shown else "")
        print(text)
        # A cell that runs twice replaces its claim.
        self.claims = [claim for claim in self.claims if claim["sentence"] != sentence]
        self.claims.append(dict(sentence=sentence, holds=holds, numbers=values))
        if not holds and os.environ.get("REPLEARN_STRICT") == "1":
            raise ClaimError(text)

    def check(self, name, fn):
        """Test a learner's function: prints not attempted, ✗ wrong (expected, found, on which input) or ✓ right."""
        try:
            result = exercises.check(exercises.get(self.number, name), fn)
        except ValueError as error:
            result = exercises.Result(str(error))
        print(result.text)
        return result

    def hint(self, name):
        """Print the next hint of an exercise."""
        hints = exercises.get(self.number, name).hints
        given = self._hints[name] = self._hints.get(name, 0) + 1
        if given <= len(hints):
            print(f"Hint {given} of {len(hints)}: {hints[given - 1]}")
        else:
            print(f'No more hints. lesson.solution("{name}") shows the solution.')

    def solution(self, name):
        """Show a reference solution, folded until it is clicked."""
        source = exercises.get(self.number, name).source()
        page = f"<details><summary>Solution: {_safe(name)}</summary><pre><code>{_safe(source)}</code></pre></details>"
        show(page, source)

    def progress(self, steps, text=""):
        """Iterate over `steps` (an iterable or a number) under a bar with the time left; silent in stored outputs."""
        steps = range(steps) if isinstance(steps, int) else steps
        if is_static():
            from tqdm import tqdm

            return tqdm(
                steps, desc=text, leave=False, file=sys.stdout, disable=not sys.stdout.isatty()
            )
        try:
            import ipywidgets  # noqa: F401
            from tqdm.notebook import tqdm
        except ImportError:
            from tqdm import tqdm
        return tqdm(steps, desc=text, leave=False, file=sys.stdout)

    def finish(self):
        """Print the summary of the lesson; `$REPLEARN_RESULTS` names a folder that gets it as `<number>.json`."""
        held, seconds = (
            sum(claim["holds"] for claim in self.claims),
            time.perf_counter() - self._started,
        )
        print(
            f"Lesson {self.number}: {held} of {len(self.claims)} claims held, {seconds / 60:.1f} minutes, "
            f"{self.profile_name} profile, seed {self.seed}."
        )
        if folder := os.environ.get("REPLEARN_RESULTS"):
            versions = dict(
                replearn=__version__,
                python=platform.python_version(),
                torch=torch.__version__,
                numpy=np.__version__,
            )
            record = dict(
                lesson=self.number,
                title=self.title,
                profile=self.profile_name,
                device=str(self.device),
                data=self.data,
                seed=self.seed,
                seconds=round(seconds, 2),
                held=held,
                claims=self.claims,
                versions=versions,
            )
            path = Path(folder) / f"{self.number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            part.write_text(
                json.dumps(plain.json_ready(record), ensure_ascii=False, indent=1) + "\n",
                encoding="utf-8",
            )
            os.replace(part, path)  # whole or not at all


def _safe(value):
    return html.escape(str(value))


def _style_plots():
    from replearn import plot  # matplotlib loads with the first lesson, not with the package

    plot.style()
