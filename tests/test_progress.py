"""Long work speaks: lines in a log, a bar in a terminal, nothing on a page, words at the end."""

import io
import json
import sys

import pytest
import torch

from replearn import _progress, models
from replearn.__main__ import main
from replearn._progress import Parts, Progress, duration, say, steps
from replearn.pretrain import evaluation, loop, report
from replearn.pretrain.log import append_log
from replearn.pretrain.planning import FEWEST_STEPS, too_short

PRETRAIN = (
    "pretrain --recipe shapes --width 4 --hidden 8 --out 8 --batch-size 32 --size 64 "
    "--test-size 40 --device cpu --log-every 1 --folder"
)


class Clock:
    """A clock that a test turns by hand."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.delenv("REPLEARN_STATIC", raising=False)
    clock = Clock()
    monkeypatch.setattr(_progress, "time", clock)
    return clock


def lines_of(capsys):
    return capsys.readouterr().err.splitlines()


def test_a_log_gets_a_line_every_few_percent(clock, capsys):
    progress = Progress("counting", 1000)
    for done in range(1, 1001):
        clock.now += 1
        progress.show(done, "loss 1.5")
    progress.close()
    lines = lines_of(capsys)
    assert len(lines) == 20
    assert lines[0] == "counting: 5 % · step 50 of 1,000 · loss 1.5 · about 16 min left"
    assert lines[-1] == "counting: 100 % · step 1,000 of 1,000 · loss 1.5"


def test_the_time_left_is_that_of_this_process(clock, capsys):
    progress = Progress("counting", 100, start=80)
    clock.now += 10
    progress.show(90)
    assert lines_of(capsys) == ["counting: 90 % · step 90 of 100 · about 10 s left"]


def test_what_is_quick_is_silent_unless_something_was_measured(clock, capsys):
    progress = Progress("counting", 10)
    for done in range(1, 11):
        clock.now += 0.1
        progress.show(done, always=done == 4)
    assert lines_of(capsys) == ["counting: 40 % · step 4 of 10 · about 1 s left"]


def test_after_a_few_steps_the_whole_time_is_told_once(clock, capsys):
    progress = Progress("counting", 200)
    for done in range(1, 10):
        clock.now += 2
        progress.announce(done)
    assert lines_of(capsys) == ["counting: 200 steps, about 7 min"]
    one = Progress("counting", 1)  # fewer than it would wait for
    clock.now += 2
    one.announce(1)
    assert lines_of(capsys) == ["counting: 1 step, about 1 s"]


def test_a_terminal_gets_a_bar_and_no_lines(clock, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("counting", 100)
    for done in range(1, 101):
        clock.now += 5
        progress.show(done, "loss 1.5", always=True)
        progress.announce(done)
    progress.say("a line above the bar")
    progress.close()
    text = terminal.getvalue()
    assert "counting: " in text and "100/100" in text and "loss 1.5" in text
    assert "a line above the bar\n" in text
    assert "about" not in text


def test_a_page_gets_nothing(clock, monkeypatch, capsys):
    monkeypatch.setenv("REPLEARN_STATIC", "1")
    progress = Progress("counting", 10)
    clock.now += 100
    progress.show(10, always=True)
    progress.announce(10)
    progress.say("nothing")
    say("nothing")
    assert capsys.readouterr() == ("", "")


def test_parts_are_shown_by_their_share(clock, capsys):
    with Parts("evaluating", {"long": 30.0, "short": 10.0}) as shown:
        for part in ("long", "unknown", "short"):
            clock.now += 15
            shown(part)
    assert lines_of(capsys) == [
        "evaluating: 75 % · long · about 5 s left",
        "evaluating: 100 % · short",
    ]


def test_steps_pass_everything_on_and_end_with_an_error(clock, capsys):
    assert list(steps(iter("abc"), "spelling", 3)) == ["a", "b", "c"]
    with pytest.raises(ZeroDivisionError):
        for _ in steps(range(3), "dividing", 3):
            1 / 0  # noqa: B018


def test_durations_in_words():
    assert [duration(seconds) for seconds in (40, 600, 9000)] == ["40 s", "10 min", "2.5 h"]


# What the commands say


@pytest.fixture
def talking(monkeypatch):
    """One thread, and commands that speak."""
    monkeypatch.delenv("REPLEARN_STATIC", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_pretraining_says_what_it_does_and_what_came_of_it(tmp_path, capsys, talking):
    folder = tmp_path / "run"
    found = tmp_path / "found.json"
    main([*PRETRAIN.split(), str(folder), "--epochs", "2", "--json", str(found)])
    said = capsys.readouterr()
    first, *others = said.err.splitlines()
    assert first == (
        "pretraining by the recipe shapes: small_cnn of width 4 on shapes, pictures a step: 32, "
        f"epochs: 2 (how long they take is said after the first steps); into {folder}"
    )
    assert others[0].startswith("warning: 4 steps are hardly enough to learn anything; ")
    assert others[1].startswith("pretraining: 4 steps, about ")
    lines = said.out.splitlines()
    assert lines[0].startswith("4 steps (2 epochs) in ")
    assert lines[1].split() == ["measure", "trained", "untrained", "chance"]
    assert lines[-1] == f"next: python -m replearn evaluate {folder}"
    record = json.loads(found.read_text())
    assert record["step"] == 4
    assert f"{100 * record['knn']:.1f}" in said.out
    assert f"{100 * record['knn_untrained']:.1f}" in said.out
    main([*PRETRAIN.split(), str(folder), "--epochs", "2"])
    assert f"{folder}: the run is finished, all 4 steps of it" in capsys.readouterr().err


def test_a_run_that_was_stopped_says_where_it_goes_on(tmp_path, capsys, talking, monkeypatch):
    def stopping(folder, record):
        if record["step"] == 3:
            raise KeyboardInterrupt
        return append_log(folder, record)

    words = [*PRETRAIN.split(), str(tmp_path), "--epochs", "4", "--checkpoint-seconds", "0"]
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(loop, "append_log", stopping)
        main(words)
    capsys.readouterr()
    main(words)
    assert f"{tmp_path}: resumed at step 2 of 8" in capsys.readouterr().err.splitlines()


def test_a_result_below_untrained_weights_is_a_warning():
    record = dict(step=9, epoch=1, seconds=1, loss=1.0, knn=0.3, effective_rank=2.0)
    beside = dict(knn_untrained=0.31, knn_chance=0.1, knn_pictures=2000)
    assert "warning: untrained weights have the better" in report.result(record | beside)
    assert "warning" not in report.result(record | beside | {"knn": 0.31})
    assert "warning" not in report.result({**record, "online": 0.5})
    worse = report.below_untrained("mine", dict(linear=0.5, knn=0.3), dict(linear=0.4, knn=0.31))
    assert worse.startswith("warning: mine is below untrained weights (kNN 30.0 % below 31.0 %)")
    same = dict(linear=0.4, knn=0.3)
    assert report.below_untrained("untrained", same, same) is None


def test_a_plan_that_teaches_nothing_is_a_warning():
    assert too_short(FEWEST_STEPS) is None
    assert too_short(FEWEST_STEPS - 1).startswith("warning: 99 steps are hardly enough")


def test_evaluation_and_fine_tuning_speak_first_and_end_in_json(tmp_path, capsys, talking):
    encoder = tmp_path / "mine"
    models.save(models.small_cnn(4), encoder, architecture=["small_cnn", 4], data="shapes")
    few = "--size 60 --test-size 40 --device cpu --data shapes".split()
    main(["evaluate", str(encoder), *few])
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith(f"evaluating {encoder} beside untrained weights")
    assert "how long it takes is said once " in err[0]
    assert err[1].startswith("2 encoders on 60 and 40 pictures: about ")
    found = tmp_path / "tuned.json"
    main(["finetune", str(encoder), *few, "--epochs", "1", "--json", str(found)])
    err = capsys.readouterr().err.splitlines()
    assert err[0] == f"fine-tuning {encoder} on shapes: a head, then all of it in 1 epoch"
    assert set(json.loads(found.read_text())) >= {"before", "after", "classes"}


def test_every_part_of_a_report_is_told_of_in_its_order():
    from replearn.data import shapes

    train, test = shapes.render(60, seed=0), shapes.render(30, seed=1)
    encoder = models.small_cnn(4)
    told = []
    evaluation.evaluate(encoder, train, test, other=(train, test), callback=told.append)
    expected = evaluation.seconds_of_parts(encoder, train, test, other=(train, test))
    assert told == list(expected)
    assert all(seconds > 0 for seconds in expected.values())


@pytest.mark.seconds
def test_every_part_of_an_export_is_told_of_in_its_order(tmp_path, capsys, talking, monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from replearn.serve import exporting

    told = []
    export = exporting.export

    def listening(*args, callback, **options):
        return export(*args, callback=told.append, **options)

    monkeypatch.setattr(exporting, "export", listening)
    found = tmp_path / "about.json"
    words = f"export shapes_simclr {tmp_path / 'bundle'} --size 100 --test-size 40"
    main([*words.split(), "--json", str(found)])
    assert told == list(exporting.PARTS)
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("exporting shapes_simclr into ")
    assert err[1].startswith("100 training and 40 test pictures: about ")
    assert json.loads(found.read_text())["class_names"]
