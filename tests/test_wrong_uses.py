"""Wrong uses of every command: each ends in one sentence and an exit code, never in a traceback.

Run in this process, through each command's `main`: an exception that is no SystemExit is what a
user would see as a traceback. The sentence has to name what was found, and say what is expected or
what to do. A few run in a process of their own: those whose arguments are no text.
"""

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from replearn import models
from replearn.data import load
from replearn.pretrain import SHAPES, pretrain

MAINS = {
    "replearn": "replearn.__main__",
    "notebooks": "tools.notebooks",
    "classroom": "tools.classroom.__main__",
    "slides": "tools.slides.__main__",
    "handout": "tools.handout",
    "lint_course": "tools.lint_course.__main__",
}
PICTURES = 12  # a class
TINY = (
    "pretrain --recipe shapes --size 20 --test-size 10 --width 4 --hidden 8 --out 8 "
    "--batch-size 8 --epochs 1 --device cpu"
)
FEW = "--size 40 --test-size 40 --device cpu"
LONG = "x" * 300
# A command, and a part of its last line. {here} is a folder with what `world` puts there.
PRETRAIN = [
    ("--data nothing", "expected shapes, digits, cifar10, pneumonia or a folder .* 'nothing'"),
    ("--data shape", "found 'shape', did you mean shapes"),
    ("--data {here}/gone", "a folder of pictures, found '.*gone'"),
    ("--data {here}/file.txt", "a folder of pictures, found '.*file.txt'"),
    ("--data ''", "a folder of pictures, found ''"),
    ("--data 3", "a folder of pictures, found '3'"),
    ("--data {here}/empty", "two classes or more.* found 0 classes"),
    ("--data {here}/flat", "expected 20 or more pictures in the train split, found 1"),
    ("--data {here}/one", "found 1 classes with pictures"),
    ("--data {here}/texts", r"no pictures in cat/, dog/"),
    ("--data {here}/strange", "cow in test/ but not in train/"),
    ("--data {here}/damaged", "cat/3.png: expected a picture, found 1 bytes .* repair them"),
    ("--data {here}/pictures --size 1000", "expected 1000 or more pictures in the train split"),
    ("--size 0", "--size: expected a whole number of 1 or more, found '0'"),
    ("--size -5", "--size: expected a whole number of 1 or more, found '-5'"),
    ("--size 1.5", "--size: expected a whole number of 1 or more, found '1.5'"),
    ("--size nan", "--size: expected a whole number of 1 or more, found 'nan'"),
    ("--size 10000000000000", "expected size from 1 to 2,000,000 .* found size=10000000000000"),
    ("--size 7", "--size: expected 8 or more, the --batch-size, found 7 pictures"),
    ("--test-size 0", "--test-size: expected a whole number of 1 or more, found '0'"),
    ("--width 0", "width: expected a whole number from 1 to 4,096, found 0"),
    ("--width 1.5", "width: expected a whole number from 1 to 4,096, found 1.5"),
    ("--width 100000000", "width: expected a whole number from 1 to 4,096, found 100000000"),
    ("--network resnet18 --width 7", "width: expected a multiple of 8, found 7"),
    ("--network resnet50", "network: expected resnet18, small_cnn or timm:NAME"),
    ("--epochs 0", "epochs: expected a number from .* found 0"),
    ("--epochs NaN", "epochs: expected a number .* found nan"),
    ("--epochs 1e300", "epochs: expected .* found 1e\\+300"),
    ("--epochs two", "epochs: expected a number .* found 'two'"),
    ("--minutes 0", "minutes: expected None or a number above 0"),
    ("--minutes -3", "minutes: expected None or a number above 0"),
    ("--batch-size 0", "batch_size: expected a whole number of 2 or more, found 0"),
    ("--batch-size 21", "--size: expected 21 or more, the --batch-size, found 20 pictures"),
    ("--batch-size true", "batch_size: expected a whole number of 2 or more, found True"),
    ("--lr 0", "lr: expected a number"),
    ("--lr fast", "lr: expected a number of .* found 'fast'"),
    ("--weight-decay -1", "weight_decay: expected a number"),
    ("--temperature 0", "temperature: expected a number"),
    ("--optimizer lion", "optimizer: expected one of sgd, adamw, found 'lion'"),
    ("--loss dino", "loss: expected one of nt_xent, decoupled_contrastive, byol, simsiam, found"),
    ("--loss byol", "predictor: expected 1 or more with loss byol, .* found 0; 512 fits"),
    ("--predictor 64", "predictor: expected 0 with loss nt_xent, found 64; set it to 0, or choose"),
    ("--predictor 1000000000000", "predictor: expected a whole number from 0 to"),
    ("--loss byol --predictor 64 --queue 64", "a queue brings a loss of its own"),
    ("--n-views 1", "n_views: expected a whole number from 2 to 64, found 1"),
    ("--n-views 1000000", "n_views: expected a whole number from 2 to 64, found 1000000"),
    ("--mean-target", "mean_target: expected n_views of 3 or more, .* found 2; raise n_views"),
    ("--loss decoupled_contrastive --queue 64", "a queue brings a loss of its own"),
    ("--queue 1000000000000", "queue: expected a whole number from 0 to"),
    ("--hidden 0", "hidden: expected a whole number from 1 to"),
    ("--hidden 1000000000000", "hidden: expected a whole number from 1 to"),
    ("--out 1000000000000", "out: expected a whole number from 1 to"),
    ("--layers 1000000000", "layers: expected a whole number from 1 to"),
    ("--n-small 1000000", "n_small: expected a whole number from 0 to"),
    ("--seed 100000000000000000000000", "seed: expected a whole number from 0 to"),
    ("--seed -1", "seed: expected a whole number from 0 to"),
    ("--crop [1,0]", "crop: expected two rising shares"),
    ("--crop [0.5]", "crop: expected two rising shares"),
    ("--jitter [1]", "jitter: expected four strengths"),
    ("--flip 2", "flip: expected a number from 0 to 1, found 2"),
    ("--grayscale NaN", "grayscale: expected a number from 0 to 1, found nan"),
    ("--log-every 0", "--log-every: expected a whole number of 1 or more, found '0'"),
    ("--knn-every -1", "--knn-every: expected a number of 0 or more|--knn-every: expected a whole"),
    ("--checkpoint-seconds nan", "--checkpoint-seconds: expected a number of 0 or more"),
    ("--device abacus", r"device: expected one of this machine \(cpu.*\), found 'abacus'"),
    ("--device meta", r"device: expected one of this machine \(cpu.*\), found 'meta'"),
    ("--device cuda:99", r"device: expected one of this machine \(cpu.*\), found 'cuda:99'"),
    ("--folder {here}/file.txt", "file.txt: could not .* there is a file of this name"),
    ("--folder ~nobodyatall/run", "begins with ~ and the name of no user"),
    ("--data ~nobodyatall/x", "begins with ~ and the name of no user"),
    ("--folder {here}/file.txt/run", "a part of the path is a file"),
    (f"--folder {{here}}/{LONG}", "File name too long"),
    ("--folder {here}/run --lr 0.1", "another recipe: .*lr was"),
    ("--folder {here}/foreign", "not a checkpoint of this training .* choose another folder"),
    ("--folder {here}/broken", "no good checkpoint: .* start over"),
    ("--learning-rate 3", "unrecognized arguments: --learning-rate 3"),
    ("--epoks 3", "unrecognized arguments: --epoks 3, did you mean --epochs"),
    ("--recipe shapess", "invalid choice: 'shapess' .*, did you mean shapes"),
]
OTHERS = [
    ("replearn", "the following arguments are required: command; see python -m replearn --help"),
    ("replearn pretrian", "invalid choice: 'pretrian' .*, did you mean pretrain"),
    ("replearn --version 3", "error: .*; see python -m replearn --help"),
    # finetune
    ("replearn finetune shapes_simclr", "required: --data"),
    ("replearn finetune nothing --data shapes", "no encoder 'nothing'"),
    ("replearn finetune shapes_simclr --data shapes --shots 0", "--shots: expected a whole number"),
    (
        "replearn finetune shapes_simclr --data shapes --epochs -1",
        "--epochs: expected a number above",
    ),
    ("replearn finetune shapes_simclr --data ''", "a folder of pictures, found ''"),
    # evaluate
    ("replearn evaluate", "required: encoder"),
    ("replearn evaluate shapes_simcrl", "no encoder .*, did you mean shapes_simclr"),
    ("replearn evaluate cifar10_simclr_ful", "no encoder .*, did you mean cifar10_simclr_full"),
    ("replearn evaluate ''", "no encoder ''"),
    ("replearn evaluate {here}/gone", "no encoder .*gone'"),
    ("replearn evaluate {here}/empty", "no encoder .*empty'"),
    ("replearn evaluate {here}/file.txt", "no encoder .*file.txt'"),
    (f"replearn evaluate {{here}}/{LONG}", "expected a path .* File name too long"),
    ("replearn evaluate {here}/badcard", "encoder.json: expected JSON, found"),
    ("replearn evaluate {here}/listcard", "expected an object with entries, found a list of 1"),
    ("replearn evaluate {here}/bincard", "encoder.json: expected JSON, found"),
    ("replearn evaluate {here}/noweights", "encoder.safetensors: expected a path .* No such file"),
    ("replearn evaluate {here}/cut", "expected SHA-256 .* damaged, fetch it again"),
    ("replearn evaluate {here}/misfit", "not the weights of its card"),
    ("replearn evaluate {here}/gonedata", "a folder of pictures, found '.*gone'"),
    ("replearn evaluate {here}/run/last.safetensors", "no encoder"),
    (f"replearn evaluate {{here}}/run {FEW} --data nothing", "found 'nothing'"),
    (f"replearn evaluate {{here}}/run {FEW} --test-size 5", "expected 21 pictures or more"),
    (f"replearn evaluate {{here}}/run {FEW} --size 0", "--size: expected a whole number"),
    (f"replearn evaluate {{here}}/run {FEW} --supervised nothing", "no encoder 'nothing'"),
    (f"replearn evaluate {{here}}/run {FEW} --other nothing", "found 'nothing'"),
    (f"replearn evaluate {{here}}/run {FEW} --other {{here}}/damaged", "expected a picture"),
    (f"replearn evaluate {{here}}/run {FEW} --mixup -1", "--mixup: expected a number of 0"),
    (f"replearn evaluate {{here}}/run {FEW} --mixup inf", "--mixup: expected a number of 0"),
    (f"replearn evaluate {{here}}/run {FEW} --seed -1", "--seed: expected a whole number from 0"),
    (f"replearn evaluate {{here}}/run {FEW} --seed {10**26}", "--seed: expected a whole number"),
    (f"replearn evaluate {{here}}/run {FEW} --device meta", "device: expected one of this"),
    (f"replearn evaluate {{here}}/run {FEW} --json {{here}}/empty", "found a folder; give"),
    (f"replearn evaluate {{here}}/run {FEW} --json {{here}}/file.txt/x.json", "is a file|a file"),
    (f"replearn evaluate {{here}}/run {FEW} --figure {{here}}/file.txt", "a file of this name"),
    # export
    ("replearn export", "required: ENCODER, FOLDER"),
    ("replearn export {here}/run", "required: FOLDER"),
    ("replearn export shapes_simcrl {here}/new", "did you mean shapes_simclr"),
    ("replearn export {here}/cut {here}/new", "damaged, fetch it again"),
    ("replearn export {here}/gonedata {here}/new", "a folder of pictures, found '.*gone'"),
    ("replearn export {here}/run {here}/pictures", "expected a new folder, .* found cat in it"),
    ("replearn export {here}/run {here}/file.txt", "expected a folder .* found a file"),
    ("replearn export {here}/run {here}/file.txt/b", "could not write .*a file of this name"),
    ("replearn export {here}/run /", "found the root of the disk"),
    ("replearn export {here}/run ''", "expected a new folder, an empty one or a bundle"),
    ("replearn export {here}/run {here}/new --size 0", "--size: expected a whole number"),
    ("replearn export {here}/run {here}/new --test-size -1", "--test-size: expected a whole"),
    ("replearn export {here}/run {here}/new --size 10000000000000", "from 1 to 2,000,000"),
    ("replearn export {here}/run {here}/new --data {here}/flat", "two classes or more"),
    # serve
    ("replearn serve", "required: folder"),
    ("replearn serve shapes_simcrl", "no bundle .* one of .*, did you mean shapes_simclr"),
    ("replearn serve nothing", "no bundle 'nothing': .* one of .*'cifar10_simclr_full'"),
    ("replearn serve {here}/gone", "expected a bundle, found no bundle.json .* make one with"),
    ("replearn serve ~nobodyatall/x", "begins with ~ and the name of no user"),
    ("replearn serve {here}/run", "expected a bundle, found no bundle.json"),
    ("replearn serve {here}/file.txt", "expected a bundle, found no bundle.json"),
    ("replearn serve {here}/badbundle", "bundle.json: expected JSON, found it damaged"),
    ("replearn serve {here}/otherbundle", "expected format .* export again"),
    ("replearn serve {bundle} --port x", "--port: expected a whole number from 0 to 65,535"),
    ("replearn serve {bundle} --port -1", "--port: expected a whole number from 0 to 65,535"),
    ("replearn serve {bundle} --port 70000", "--port: expected a whole number from 0 to 65,535"),
    ("replearn serve {bundle} --port {port}", "cannot listen there .* choose another --port"),
    ("replearn serve {bundle} --host no.such.host.invalid --port 0", "cannot listen there"),
    ("replearn serve {bundle} --precision int4", "--precision: invalid choice: 'int4'"),
    ("replearn serve {bundle} --workers 0", "--workers: expected a whole number from 1 to 256"),
    ("replearn serve {bundle} --workers 100000", "--workers: expected a whole number from 1"),
    ("replearn serve {bundle} --queue -1", "--queue: expected a whole number of 0 or more"),
    ("replearn serve {bundle} --max-bytes 0", "--max-bytes: expected a whole number of 1"),
    ("replearn serve {bundle} --max-pixels nan", "--max-pixels: expected a whole number of 1"),
    ("replearn serve {bundle} --decode-seconds 0", "--decode-seconds: expected a number above 0"),
    ("replearn serve {bundle} --max-pixles 3", "--max-pixles 3, did you mean --max-pixels"),
    # the tools
    ("notebooks", "required: command"),
    ("notebooks snyc", "invalid choice: 'snyc' .*, did you mean sync"),
    ("notebooks sync 99", "expected numbers of lessons, found 99; there are 01, 02"),
    ("notebooks sync six", "expected numbers of lessons, found six"),
    ("notebooks run 6.5", "expected numbers of lessons, found 6.5"),
    ("notebooks run 06 --profile tpu", "--profile: invalid choice: 'tpu'"),
    ("notebooks run 06 --seeds -1", "--seeds: expected a whole number from 1 to 100"),
    ("notebooks run 06 --seeds 1000000", "--seeds: expected a whole number from 1 to 100"),
    ("notebooks sync --lesson 6", "unrecognized arguments: --lesson"),
    ("classroom", "required: command"),
    ("classroom clas x", "invalid choice: 'clas' .*, did you mean class"),
    ("classroom class {here}/pictures", "expected a new or empty folder, found"),
    ("classroom class {here}/file.txt", "expected a new or empty folder, found"),
    ("classroom class {here}/file.txt/x 06", "expected a path that can be used here"),
    ("classroom class {here}/class 99", "expected numbers of lessons, found 99"),
    ("classroom grade", "required: folder"),
    ("classroom grade {here}/gone", "expected a folder of notebooks, found nothing"),
    ("classroom grade {here}/file.txt", "expected a folder of notebooks, found a file"),
    ("classroom grade {here}/empty", "no notebook .* in .*empty"),
    ("classroom grade {here}/students --seconds nan", "--seconds: expected a number above 0"),
    ("classroom grade {here}/students --memory -1", "--memory: expected a whole number from 1"),
    (f"classroom grade {{here}}/students --memory {10**30}", "--memory: expected a whole number"),
    ("classroom grade {here}/students --unprotected --csv {here}/empty", "found a folder"),
    ("classroom grade {here}/students --unprotected --csv {here}/file.txt/x.csv", "cannot be wri"),
    ("classroom grade {here}/students --protected", "--protected, did you mean --unprotected"),
    ("slides 99", "expected numbers of lessons, found 99"),
    ("slides 01 --folder {here}/file.txt", "expected a path .* File exists"),
    ("slides --foldr x", "unrecognized arguments: --foldr, did you mean --folder"),
    ("handout --folder {here}/file.txt", "expected a path .* File exists"),
    ("handout --folder {here}/file.txt/x", "expected a path .* Not a directory"),
    ("handout 01", "unrecognized arguments: 01"),
    ("lint_course 99", "expected numbers of lessons, found 99"),
    ("lint_course x", "expected numbers of lessons, found x"),
    ("lint_course --all", "unrecognized arguments: --all"),
]
WRONG_USES = [(f"replearn {TINY} {options}", words) for options, words in PRETRAIN] + OTHERS


def noise(path, seed=0):
    """Write a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)


def copy_of_run(here, name, change):
    """Copy the folder of a run and change something in it."""
    shutil.copytree(here / "run", here / name)
    change(here / name)


def change_card(folder, **entries):
    card = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps(card | entries))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return what stands for {here}, {bundle} and {port}: things to use wrongly."""
    here = tmp_path_factory.mktemp("here")
    for folder in ("pictures", "damaged"):
        for i in range(PICTURES):
            noise(here / folder / "cat" / f"{i}.png", i)
            noise(here / folder / "dog" / f"{i}.png", 100 + i)
    (here / "damaged/cat/3.png").write_bytes(b"x")
    (here / "empty").mkdir()
    (here / "students/ada").mkdir(parents=True)
    (here / "file.txt").write_text("hello")
    noise(here / "flat/0.png")
    noise(here / "one/cat/0.png")
    for name in ("cat", "dog"):
        (here / "texts" / name).mkdir(parents=True)
        (here / "texts" / name / "note.txt").write_text("hello")
        noise(here / "strange/train" / name / "0.png")
        noise(here / "strange/test" / name / "0.png")
    noise(here / "strange/test/cow/0.png")

    fields = dict(width=4, hidden=8, out=8, batch_size=8, epochs=1)
    recipe = SHAPES.__class__(**(SHAPES.__dict__ | fields))
    images = load("shapes", size=20).images
    pretrain(recipe, images, folder=here / "run", device="cpu")
    copy_of_run(here, "badcard", lambda run: (run / "encoder.json").write_text("{"))
    copy_of_run(here, "listcard", lambda run: (run / "encoder.json").write_text("[1]"))
    copy_of_run(here, "bincard", lambda run: (run / "encoder.json").write_bytes(b"\xff\xfe\x00"))
    copy_of_run(here, "noweights", lambda run: (run / "encoder.safetensors").unlink())
    weights = (here / "run/encoder.safetensors").read_bytes()
    copy_of_run(here, "cut", lambda run: (run / "encoder.safetensors").write_bytes(weights[:500]))
    copy_of_run(here, "misfit", lambda run: change_card(run, architecture=["small_cnn", 8]))
    copy_of_run(here, "gonedata", lambda run: change_card(run, data=str(here / "gone")))
    copy_of_run(here, "foreign", lambda run: (run / "last.safetensors").write_bytes(weights))
    copy_of_run(here, "broken", lambda run: (run / "last.safetensors").write_bytes(b"broken"))
    for name, text in (("badbundle", "{"), ("otherbundle", '{"format": "other"}')):
        (here / name).mkdir()
        (here / name / "bundle.json").write_text(text)

    try:
        import test_serve

        bundle = test_serve.folder.__wrapped__(tmp_path_factory)
    except pytest.skip.Exception:
        bundle = None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield {"here": here, "bundle": bundle, "port": taken.getsockname()[1]}


def words_of(command, world):
    """Return the name of a command and its arguments."""
    name, *words = command.split(" ")
    return name, ["" if word == "''" else word.format(**world) for word in words]


def end_of(name, words, capsys):
    """Run a command to its wrong end; return its exit code and its last line."""
    main = importlib.import_module(MAINS[name]).main
    capsys.readouterr()
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    text = f"{printed.out}\n{printed.err}"
    if isinstance(code, str):  # Python prints it, and the exit code is 1
        text += code
        code = 1
    assert "Traceback" not in text
    return code, text.strip().splitlines()[-1]


@pytest.mark.parametrize("command, words", WRONG_USES, ids=[command for command, _ in WRONG_USES])
@pytest.mark.usefixtures("one_silent_thread")
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_use_ends_in_a_sentence(command, words, world, capsys):
    if "{bundle}" in command and world["bundle"] is None:
        pytest.skip("needs the packages of a service")
    code, last = end_of(*words_of(command, world), capsys)
    assert code not in (0, None), last
    assert len(last) < 1200
    assert re.search(words, last), last


def test_there_are_a_hundred_of_them():
    assert len(WRONG_USES) >= 100
    assert len({command for command, _ in WRONG_USES}) == len(WRONG_USES)


def run_process(*words, **options):
    """Run python -m with these words."""
    root = str(Path(models.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "REPLEARN_STATIC": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, capture_output=True, env=environment, cwd=root, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are no text")
def test_names_that_are_no_text(world):
    strange = os.fsencode(world["here"]) + b"/\xff\xfe"
    done = run_process("replearn", "evaluate", strange)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: no encoder '")
    shutil.copytree(os.fsencode(world["here"] / "pictures"), strange)
    done = run_process("replearn", *TINY.split(), "--data", strange)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"expected a path that is text" in done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_never_replaced_by_a_file(world, capsys):
    pipe = world["here"] / "pipe"
    os.mkfifo(pipe)
    code, last = end_of(
        *words_of(f"replearn evaluate {{here}}/run {FEW} --json {pipe}", world), capsys
    )
    assert code == 1
    assert "found a device or a pipe" in last
    assert pipe.is_fifo()
