"""`Lesson`: what one notebook needs around the science.

That is its header, budgets, predictions, measured claims, exercises and summary.
"""

import html
import os
import platform
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import torch

from replearn import __version__
from replearn.files import write_json
from replearn.lesson import exercises
from replearn.lesson.display import KEEP_KEYS, is_static, show
from replearn.lesson.formatting import has_nan, json_ready, to_plain, to_text
from replearn.lesson.parallel import can_split, side_by_side
from replearn.lesson.seeds import measured_claims, over_seeds

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
FRONTIER = {  # beyond the twelve, in notebooks/frontier/
    "F1": ("Masked prediction: pixels or features?", "shapes", 1),
    "F2": ("Do different models see the same world?", "shapes", 1),
    "F3": ("What contrastive learning identifies", "synthetic mixtures and shapes", 1),
    "F4": ("Is it any good, without labels?", "shapes", 1),
    "F5": ("Reading and shrinking z", "shapes", 1),
}
EVERY_LESSON = {**LESSONS, **FRONTIER}
Item = TypeVar("Item", bound=Hashable)
_BOX = "border:1px solid #8888;border-radius:6px;padding:.6em 1em;margin:.5em 0;color:inherit"
# Of the CPU, as OMP_NUM_THREADS or the cores have it. Asked here, before a lesson changes it.
_THREADS = torch.get_num_threads()
FEWEST_PICTURES = 100  # of your own, and 20 to measure on; with fewer every number is a guess
FEWEST_FRESH = 20
_ADVICE = "To get them, use a GPU, or put CIFAR-10 into the folder that $REPLEARN_DATA names."


class ClaimError(AssertionError):
    """A claim of the notebook does not hold, and `REPLEARN_STRICT=1` makes that an error."""


class Lesson:
    """One notebook's lesson.

    Making it shows title, device, data and the minutes to expect, and seeds torch with
    `$REPLEARN_SEED` (0 if it is not set). `$REPLEARN_PROFILE` (cpu or gpu) chooses the budgets, in
    place of the machine.

    Without a GPU, PyTorch gets one thread in this process, where `side_by_side` can use the others
    (on Linux). The networks are so small that a second thread hardly helps, and where another
    program is busy the two wait for each other: a step then takes several times as long. And so the
    results do not depend on the number of cores.

    Args:
        number: "01" to "12", or the number; "F2" and the like for the frontier shelf.

    Attributes:
        number (str): Two digits, "03", or "F2" and the like.
        title (str): Of the lesson.
        data (str): The data sets, in words.
        device (torch.device): The GPU if there is one, else the CPU.
        profile_name (str): "cpu" or "gpu".
        seed (int): That torch was seeded with.
        claims (list): A dict with `sentence`, `holds` and `numbers` for each claim so far.

    Raises:
        ValueError: There is no such lesson, or no such profile.

    Example:
        >>> lesson = Lesson("03")  # doctest: +ELLIPSIS
        Lesson 03 · Comparing representations: CKA
        Device: ...
        Data: shapes
        Time: ...
        >>> lesson.claim("two is more than one", 2 > 1, two=2)
        ✓ two is more than one (two 2)
    """

    def __init__(self, number: str | int):
        self.number = f"{int(number):02d}" if str(number).isdigit() else str(number)
        if self.number not in EVERY_LESSON:
            raise ValueError(
                f"Lesson: expected a number from 01 to {max(LESSONS)} or {', '.join(FRONTIER)}, "
                f"found {number!r}"
            )
        self.title, self.data, minutes = EVERY_LESSON[self.number]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.profile_name = os.environ.get("REPLEARN_PROFILE") or _profile_of(self.device)
        if self.profile_name not in ("cpu", "gpu"):
            raise ValueError(f"REPLEARN_PROFILE: expected cpu or gpu, found {self.profile_name!r}")
        self.seed = int(os.environ.get("REPLEARN_SEED") or 0)
        torch.manual_seed(self.seed)
        self._workers = 1
        if self.device.type == "cpu" and can_split():
            self._workers = _THREADS
            torch.set_num_threads(1)
        self.claims = []
        self._hints_given = {}  # name of the exercise: how many
        self._predictions: list[str | None] = []  # what was chosen at each question
        self._started = time.perf_counter()
        _style_plots()
        self._show_header(minutes)

    def __repr__(self) -> str:
        return f"Lesson({self.number!r})"

    def _show_header(self, minutes: int) -> None:
        if self.profile_name == "cpu":
            duration = f"about {minutes} minute{'s' if minutes > 1 else ''} for all cells"
        else:
            duration = "more pictures and steps than on a CPU; not timed yet on a GPU"
        facts = {
            "Device": f"{_hardware(self.device)} ({self.profile_name} profile)",
            "Data": self.data,
            "Time": duration,
        }
        heading = f"Lesson {self.number} · {self.title}"
        rows = "<br>".join(f"<b>{name}</b> {_safe(fact)}" for name, fact in facts.items())
        page = (
            f'<div style="{_BOX}"><b style="font-size:1.15em">{_safe(heading)}</b><br>{rows}</div>'
        )
        lines = [heading] + [f"{name}: {fact}" for name, fact in facts.items()]
        show(page, "\n".join(lines))

    def profile(self, *, cpu: dict[str, Any], gpu: dict[str, Any]) -> SimpleNamespace:
        """Return the budgets of this machine; `$REPLEARN_PROFILE` overrides the choice.

        Args:
            cpu: Every budget of the notebook, for a machine without a GPU.
            gpu: The same names, for one with a GPU.

        Returns:
            A namespace: `P = lesson.profile(...)`, then `P.steps`.

        Raises:
            ValueError: A name is in one of the two only.
        """
        if cpu.keys() != gpu.keys():
            alone = sorted(cpu.keys() ^ gpu.keys())
            raise ValueError(
                f"profile: expected the same names in cpu and gpu, found {alone} in one of them "
                "only"
            )
        budgets = gpu if self.profile_name == "gpu" else cpu
        return SimpleNamespace(**budgets)

    def photographs(
        self, *, train: int | None = None, test: int | None = None, name: str = "cifar10"
    ) -> tuple | None:
        """Return two sets of real photographs, or None where there are none.

        None comes after one printed sentence, which says why, and what to do. Nothing is
        downloaded in the cpu profile.

        Args:
            train: How many photographs to train on; None is all.
            test: How many to test on; None is all.
            name: "cifar10", or the path of your own folder of images.

        Returns:
            Two `ImageSet`, train and test, or None.
        """
        from replearn import data

        if name == "cifar10" and self.profile_name == "cpu" and not data.available(name):
            print(
                "No photographs: CIFAR-10 is not on this disk, and without a GPU it is not "
                f"downloaded. {_ADVICE}"
            )
            return None
        try:
            train_set = data.load(name, split="train", size=train, seed=self.seed)
            test_set = data.load(name, split="test", size=test, seed=self.seed)
        except Exception as error:
            # Offline, no space, a broken file: the lesson goes on without photographs.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            advice = f" {_ADVICE}" if name == "cifar10" else ""
            print(f"No photographs: {reason}{advice}")
            return None
        self.data = f"{EVERY_LESSON[self.number][1]} and {name}"
        return train_set, test_set

    def own_pictures(self, folder: str | Path = "", *, side: int = 32) -> tuple | None:
        """Return your own pictures as two sets, or None where no folder is given.

        None comes after one printed sentence, which says why, and what to do.

        Args:
            folder: Of pictures: flat, or with a folder for each class, whose names are then the
                names of the classes.
            side: Height and width of the pictures in pixels.

        Returns:
            Two `ImageSet`, one to train on and one that training does not meet: a fifth of the
            pictures, of each class where there are classes. Those of a flat folder have no labels.

        Example:
            >>> lesson = Lesson("06")  # doctest: +ELLIPSIS
            Lesson 06 ...
            >>> lesson.own_pictures("")
            No pictures of your own: write the path of a folder between the quotes above.
        """
        from replearn import data
        from replearn.data.folder import is_flat

        if not str(folder).strip():
            print("No pictures of your own: write the path of a folder between the quotes above.")
            return None
        path = Path(str(folder).strip()).expanduser()
        try:
            if path.is_dir() and is_flat(path):
                pictures = data.load(path, side=side, unlabeled=True)
                generator = torch.Generator().manual_seed(self.seed)
                order = torch.randperm(len(pictures), generator=generator)
                parts = order.tensor_split([len(order) - len(order) // 5])
                sets = tuple(pictures.subset(part) for part in parts)
            else:
                sets = tuple(data.load(path, split=split, side=side) for split in ("train", "test"))
            known, fresh = sets
            if len(known) + len(fresh) < FEWEST_PICTURES or len(fresh) < FEWEST_FRESH:
                raise ValueError(
                    f"expected {FEWEST_PICTURES} pictures or more in {path}, {FEWEST_FRESH} of "
                    f"them to measure on, found {len(known) + len(fresh)} and {len(fresh)}"
                )
        except (OSError, ValueError) as error:  # no such folder, files that are no pictures
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"No pictures of your own: {reason}")
            return None
        self.data = f"{EVERY_LESSON[self.number][1]} and {path.name}"
        return sets

    def predict(self, question: str, options: Sequence[str]) -> None:
        """Show a question to commit to before the measurement; it never waits for an answer.

        What you choose is kept by the kernel, and on the site by the browser; `measured` sets it
        beside what came out.

        Args:
            question: What will happen?
            options: The answers to choose from.

        Example:
            >>> lesson = Lesson("03")  # doctest: +ELLIPSIS
            Lesson 03 ...
            >>> lesson.predict("Which is larger?", ["one", "two"])
            Predict: Which is larger?
              ( ) one
              ( ) two
            >>> lesson.measured("two")
            Measured: two.
        """
        number = len(self._predictions) + 1
        self._predictions.append(None)
        if self._ask_live(number, question, options):
            return
        name = f"predict-{self.number}-{number}"  # one on the whole page
        page = [
            f'<fieldset id="{name}" style="{_BOX}" {KEEP_KEYS}>'
            f"<legend><b>Predict</b></legend>{_safe(question)}"
        ]
        for i, option in enumerate(options, 1):
            page.append(
                '<label style="display:block;padding:2px 0">'
                f'<input type="radio" name="{name}" id="{name}-{i}" value="{i}" '
                f'autocomplete="off"> {_safe(option)}</label>'
            )
        page.append("</fieldset>")
        lines = [f"Predict: {question}"] + [f"  ( ) {option}" for option in options]
        show("".join(page), "\n".join(lines))

    def _ask_live(self, number: int, question: str, options: Sequence[str]) -> bool:
        """Ask with buttons that tell the kernel what was chosen; False where there are none."""
        if is_static():
            return False
        try:
            import ipywidgets as widgets
        except ImportError:
            return False
        from IPython.display import display

        buttons = widgets.RadioButtons(
            options=list(options), value=None, layout=widgets.Layout(width="max-content")
        )

        def keep(change: dict[str, Any]) -> None:
            self._predictions[number - 1] = change["new"]

        buttons.observe(keep, names="value")
        asked = widgets.HTML(f"<b>Predict</b> {_safe(question)}")
        display(widgets.VBox([asked, buttons]))
        return True

    def measured(self, answer: str, *, question: int = 1) -> None:
        """Set what was measured beside what the reader had predicted.

        Args:
            answer: What came out, in words, without a full stop.
            question: Which of the lesson's predictions it answers, from 1 on.

        Raises:
            ValueError: So many questions were not asked.
        """
        if not 1 <= question <= len(self._predictions):
            raise ValueError(
                f"measured: expected a question from 1 to {len(self._predictions)}, which the "
                f"cells above have asked, found {question}"
            )
        chosen = self._predictions[question - 1]
        said = "" if chosen is None else f"You said: {chosen}. "
        page = (
            f'<p id="measured-{self.number}-{question}" style="{_BOX}"><span>{_safe(said)}</span>'
            f"<b>Measured:</b> {_safe(answer)}.</p>"
        )
        show(page, f"{said}Measured: {answer}.")

    def claim(self, sentence: str, holds: Any, **numbers: Any) -> None:
        """Print ✓ or ✗, the sentence, its numbers, and their range over several seeds.

        The range is that of the committed measurement with this sentence at this profile, if there
        is one. A claim that is made again replaces the one with the same sentence. A NaN among the
        numbers means that it does not hold.

        Args:
            sentence: What is claimed.
            holds: One True or False (Python, NumPy or torch).
            **numbers: What it rests on, shown with three digits. A pair (0.81, "%") is shown as
                81 %, a pair (3.2, "s") as 3.2 s.

        Raises:
            TypeError: `holds` is not one True or False.
            ClaimError: The claim does not hold, and `REPLEARN_STRICT` is 1.
        """
        kind = str(getattr(holds, "dtype", type(holds)))
        if np.shape(holds) != () or "bool" not in kind:
            raise TypeError(
                f"claim: expected one True or False, found {holds!r}; compare first, or use .all()"
            )
        values = {}
        units = {}
        shown = []
        for name, number in numbers.items():
            value, unit = _with_unit(number)
            values[name] = to_plain(value)
            units[name] = unit
            shown.append(f"{name.replace('_', ' ')} {to_text(values[name], unit)}")
        holds = bool(holds) and not any(has_nan(value) for value in values.values())

        text = f"{'✓' if holds else '✗'} {sentence}"
        if shown:
            text += f" ({', '.join(shown)}{self._range_over_seeds(sentence, units)})"
        print(text)
        self.claims = [claim for claim in self.claims if claim["sentence"] != sentence]
        self.claims.append(dict(sentence=sentence, holds=holds, numbers=values))
        if not holds and os.environ.get("REPLEARN_STRICT") == "1":
            raise ClaimError(text)

    def _range_over_seeds(self, sentence: str, units: dict[str, str]) -> str:
        """Return "; five seeds: …" where the claim was measured at several, else nothing."""
        record = measured_claims(self.number, self.profile_name).get(sentence)
        text = over_seeds(record, units) if record else ""
        return f"; {text}" if text else ""

    def check(self, name: str, fn: Callable) -> exercises.Result:
        """Test a learner's function on fresh inputs and print what came out; it never raises.

        Printed is "not attempted", "✗ wrong" (what was expected, what was found, on which input)
        or "✓ right"; below it, what the function itself printed in one of the calls.

        Args:
            name: Of the exercise.
            fn: The learner's function.

        Returns:
            The text, the share of inputs answered right, and the first input that was not.
        """
        try:
            result = exercises.check(exercises.get(self.number, name), fn)
        except ValueError as error:
            result = exercises.Result(str(error))
        print(result.text)
        if result.printed:
            print(f"What your function printed in one call:\n{result.printed.rstrip()}")
        return result

    def hint(self, name: str) -> None:
        """Print the next hint of an exercise."""
        hints = exercises.get(self.number, name).hints
        number = self._hints_given.get(name, 0) + 1
        self._hints_given[name] = number
        if number <= len(hints):
            print(f"Hint {number} of {len(hints)}: {hints[number - 1]}")
        else:
            print(f'No more hints. lesson.solution("{name}") shows the solution.')

    def solution(self, name: str) -> None:
        """Show the solution of an exercise, folded until it is clicked."""
        source = exercises.get(self.number, name).source()
        page = (
            f"<details><summary>Solution: {_safe(name)}</summary>"
            f"<pre><code>{_safe(source)}</code></pre></details>"
        )
        show(page, source)

    def progress(self, steps: Iterable | int, text: str = "") -> Iterable:
        """Iterate over steps under a bar that tells the time left; silent in stored outputs.

        Args:
            steps: What to iterate over, or how often.
            text: Stands before the bar.

        Returns:
            A tqdm bar: `bar.set_postfix(loss=0.5)` shows a number behind it.
        """
        if isinstance(steps, int):
            steps = range(steps)
        options = dict(desc=text, leave=False, file=sys.stdout)
        if is_static():
            from tqdm import tqdm

            return tqdm(steps, disable=not sys.stdout.isatty(), **options)
        try:
            import ipywidgets  # noqa: F401  (tqdm's bar in a notebook needs it)
            from tqdm.notebook import tqdm
        except ImportError:
            from tqdm import tqdm
        return tqdm(steps, **options)

    def side_by_side(
        self, fn: Callable[[Item], Any], items: Iterable[Item], text: str = "runs"
    ) -> dict[Item, Any]:
        """Return {item: fn(item)}; on a CPU there are as many calls at a time as threads.

        Every call starts from the random numbers of this moment, and afterwards they go on as after
        the last one. What a call changes in place is lost, so `fn` returns everything that counts.

        Args:
            fn: A function of an item, such as a training.
            items: What it is called with; they are the keys of the result.
            text: What the progress bar says.

        Returns:
            The results, in the order of the items.

        Example:
            >>> lesson = Lesson("03")  # doctest: +ELLIPSIS
            Lesson 03 ...
            >>> lesson.side_by_side(lambda rate: 2 * rate, [0.1, 0.2])
            {0.1: 0.2, 0.2: 0.4}
        """
        return side_by_side(fn, items, text=text, workers=self._workers)

    def finish(self) -> None:
        """Print how many claims held; `$REPLEARN_RESULTS` names a folder for `<number>.json`."""
        held = sum(claim["holds"] for claim in self.claims)
        seconds = time.perf_counter() - self._started
        print(
            f"Lesson {self.number}: {held} of {len(self.claims)} claims held, "
            f"{seconds / 60:.1f} minutes, {self.profile_name} profile, seed {self.seed}."
        )
        folder = os.environ.get("REPLEARN_RESULTS")
        if folder:
            record = self._record(held, seconds)
            write_json(Path(folder) / f"{self.number}.json", json_ready(record))

    def _record(self, held: int, seconds: float) -> dict[str, Any]:
        """Return what is stored of a run."""
        versions = dict(
            replearn=__version__,
            python=platform.python_version(),
            torch=torch.__version__,
            numpy=np.__version__,
        )
        return dict(
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


def _safe(value: Any) -> str:
    return html.escape(str(value))


def _profile_of(device: torch.device) -> str:
    return "gpu" if device.type == "cuda" else "cpu"


def _hardware(device: torch.device) -> str:
    """Return the GPU's name, or the CPU's number of threads, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {_THREADS} thread" if _THREADS == 1 else f"CPU, {_THREADS} threads"


def _with_unit(number: Any) -> tuple[Any, str]:
    """Return a number and its unit; a pair with a text at its end has one, all others have none."""
    if isinstance(number, tuple) and isinstance(number[-1], str):
        value, unit = number
        return value, unit
    return number, ""


def _style_plots() -> None:
    from replearn import plot  # matplotlib loads with the first lesson, not with the package

    plot.style()
