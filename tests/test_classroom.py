"""The class kit: assignments for nbgrader, and grading a folder whose notebooks may do anything."""

import ast
import csv
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from replearn.lesson import exercises
from replearn.lesson.exercises.points import points
from replearn.lesson.lesson import EVERY_LESSON
from tools import notebooks, project
from tools.classroom import __main__ as command
from tools.classroom import assignment, grading, term
from tools.classroom.cells import cells_of, content_of, fingerprint, lesson_of, parse, slice_of
from tools.classroom.course import write_course
from tools.classroom.grading import calls, inside, sandbox

# --- the course ---


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """(The folder of a course, points of the exercises of each lesson that has any)."""
    folder = tmp_path_factory.mktemp("course")
    # A lesson that is being written may have its exercises, but no section for them yet.
    sources = [source for source in notebooks.sources() if exercises.names(source.stem[:2])]
    points = {}
    for lesson in write_course(folder, sources):
        if lesson.exercises:
            points[lesson.name] = lesson.points
    return folder, points


def notebook(path):
    return json.loads(path.read_text("utf-8"))["cells"]


def text(cell):
    return "".join(cell["source"])


def marks(cell):
    return cell["metadata"].get("nbgrader", {})


def test_the_instructors_cells_are_right_and_worth_their_difficulty(course):
    folder, worth = course
    assert {"01_representations", "02_linear_probing", "06_simclr"} <= worth.keys()
    for name, most in worth.items():
        lesson = name[:2]
        names = exercises.names(lesson)
        cells = notebook(folder / "source" / name / f"{name}.ipynb")
        grade_ids = [marks(cell)["grade_id"] for cell in cells if marks(cell)]
        assert len(set(grade_ids)) == len(grade_ids)
        assert len({cell["id"] for cell in cells}) == len(cells)

        answers = [cell for cell in cells if marks(cell).get("solution")]
        assert [marks(cell)["grade_id"] for cell in answers] == names
        tests = [cell for cell in cells if marks(cell).get("grade")]
        assert [marks(cell)["grade_id"] for cell in tests] == [f"{one}-points" for one in names]
        difficulties = [exercises.get(lesson, one).difficulty for one in names]
        assert [marks(cell)["points"] for cell in tests] == difficulties
        assert sum(difficulties) == most
        for cell in answers:
            ((exercise, function),) = checked_in(text(cell))
            assert exercises.check(exercises.get(lesson, exercise), function).right, exercise


def checked_in(source):
    """Run a cell; return what it hands to `lesson.check`."""
    calls = []

    def note(name, function):
        calls.append((name, function))

    exec(source, {"lesson": SimpleNamespace(check=note)})
    return calls


def test_the_students_version_shows_no_solution_and_runs_unsolved(course):
    folder, worth = course
    for name in worth:
        cells = notebook(folder / "student" / f"{name}.ipynb")
        whole = "\n".join(map(text, cells))
        assert "SOLUTION" not in whole and "HIDDEN" not in whole and "<!-- solution" not in whole
        for exercise in exercises.names(name[:2]):
            code = exercises.get(name[:2], exercise).source().rsplit('"""', 1)[1].split("\n")
            assert max(code, key=len).strip() not in whole, "the longest line of the solution"
        assert not any(cell.get("outputs") for cell in cells)
        attempts = {}
        space = {}
        for cell in cells:
            if cell["cell_type"] == "code" and marks(cell).get("grade_id") != "setup":
                exec(text(cell), space)
            if "lesson" in space:  # from here on, only note what is checked
                number = space["lesson"].number
                space["lesson"] = SimpleNamespace(check=attempts.__setitem__, number=number)
        assert space["lesson"].number == name[:2]
        assert list(attempts) == exercises.names(name[:2])
        for exercise, function in attempts.items():
            verdict = exercises.check(exercises.get(name[:2], exercise), function)
            assert verdict.text.startswith("not attempted")


def test_the_students_cells_are_those_of_nbgraders_marks(course):
    """The set-up cell and the start are locked: nbgrader restores them before it grades."""
    folder, worth = course
    for name in worth:
        cells = notebook(folder / "student" / f"{name}.ipynb")
        locked = [marks(cell)["grade_id"] for cell in cells if marks(cell).get("locked")]
        assert locked[:2] == ["setup", "start"]


def test_an_assignment_links_its_lesson_where_there_is_an_address(tmp_path, monkeypatch):
    (source,) = notebooks.sources(["06"])
    nb, _ = assignment.instructor(source)
    assert "the exercises of the lesson 06_simclr." in nb.cells[0].source
    urls = '[project]\n[project.urls]\nRepository = "https://github.com/somebody/course"\n'
    (tmp_path / "pyproject.toml").write_text(urls)
    monkeypatch.setattr(project, "ROOT", tmp_path)
    nb, _ = assignment.instructor(source)
    assert f"[06_simclr]({project.colab('06_simclr')})" in nb.cells[0].source


def test_full_keeps_the_whole_lesson():
    (source,) = notebooks.sources(["06"])
    short, _ = assignment.instructor(source)
    whole, _ = assignment.instructor(source, full=True)
    assert len(whole.cells) > 2 * len(short.cells)
    assert "lesson.claim(" in str(whole) and "lesson.claim(" not in str(short)
    assert "lesson.finish()" in whole.cells[-1].source
    assert "masked_fill(itself, -math.inf)" not in str(assignment.student(whole)), (
        "the folded solutions are gone, too"
    )


@pytest.mark.parametrize(
    "answer, expected", dict(right=2.0, half=2 * 5 / 6, nothing=0.0, endless=0.0).items()
)
def test_the_test_cell_ends_in_the_points(course, monkeypatch, capfd, answer, expected):
    """As in nbgrader's kernel, where the answer's cells have replaced `lesson` and the check."""
    monkeypatch.setattr("replearn.lesson.exercises.limits.LIMIT", 0.5)
    monkeypatch.setattr(sys, "path", list(sys.path))
    cells = notebook(course[0] / "source" / "06_simclr" / "06_simclr.ipynb")
    (source,) = [text(cell) for cell in cells if marks(cell).get("grade_id") == "nt_xent-points"]
    solution = exercises.get("06", "nt_xent").solution

    def half(z1, z2, temperature):
        return solution(z1, z2, temperature) / (temperature > 0.05)

    def nothing(*_):
        return None

    def endless(*_):
        time.sleep(60)

    answers = dict(right=noisy(solution), half=half, nothing=nothing, endless=endless)
    before = dict(sys.modules)
    space = {"nt_xent_exercise": answers[answer], "lesson": None, "points": lambda *_: 99.0}
    try:
        if answer in ("nothing", "endless"):
            # The limit above is set in the modules that are loaded already.
            exec(source.replace("del sys.modules[_]", "pass").rsplit("\npoints(", 1)[0], space)
        else:
            sys.modules["replearn.lesson.exercises.points"] = SimpleNamespace(
                points=lambda *_: 99.0
            )
            exec(source.rsplit("\npoints(", 1)[0], space)
        call = source.rsplit("\n", 2)[-2]
        capfd.readouterr()
        assert call.startswith("points(")
        assert eval(call, space) == pytest.approx(expected, abs=1e-3)
        assert capfd.readouterr().err == "", "nbgrader takes anything on stderr for a failure"
    finally:
        sys.modules.clear()
        sys.modules.update(before)


def luck_with_inputs(z1):
    return z1.sum() > 0


def luck_of_its_own(z1):
    return torch.rand(()) > 0.5


@pytest.mark.parametrize("luck", [luck_with_inputs, luck_of_its_own])
def test_grades_do_not_depend_on_the_draw(luck):
    exercise = exercises.get("06", "nt_xent")

    def answer(z1, z2, temperature):
        right = exercise.solution(z1, z2, temperature)
        return right if luck(z1) else 2 * right

    assert len({points("06", "nt_xent", answer, 2.0) for _ in range(8)}) == 1
    drawn_anew = {exercises.check(exercise, answer).score for _ in range(20)}
    assert len(drawn_anew) > 1, "a learner's check draws anew"


def noisy(solution):
    def fn(*arguments):
        import os

        os.write(2, b"from C++")
        print("debug", file=sys.stderr)
        return solution(*arguments)

    return fn


def test_stubs_may_name_their_arguments_and_keep_their_comments():
    stub = (
        'def mine(s):\n    """Text."""\n    ...  # a copy\n\n'
        'lesson.check("mask_self_pairs", mine)\nafter = 1'
    )
    solved = assignment._with_solution(stub, "06_x", "mask_self_pairs", "mine")
    assert '"""Text."""\n    # a copy\n    ### BEGIN SOLUTION' in solved
    assert solved.endswith("after = 1")
    ((_, function),) = checked_in(solved)
    assert exercises.check(exercises.get("06", "mask_self_pairs"), function).right
    for faulty in ("def mine(a, b): ...", "mine = 1"):
        with pytest.raises(
            SystemExit, match=r"expected a function mine\(similarity\) in the cell of exercise mask"
        ):
            assignment._with_solution(faulty, "06_x", "mask_self_pairs", "mine")


def test_bad_input_is_told(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "grades.csv").write_text("precious")
    (tmp_path / "file").write_text("")
    for arguments, message in [
        (["class", "full"], "expected a new or empty folder, found .*full with something in it"),
        (["class", "file"], "expected a new or empty folder"),
        (["class", "new", "77"], "found 77; there are 01"),
        (["grade", "nowhere"], "expected a folder of notebooks, found nothing"),
        (["grade", "file"], "expected a folder of notebooks, found a file"),
        (["grade", "full"], "no notebook"),
    ]:
        with pytest.raises(SystemExit, match=message):
            command.main([arguments[0], str(tmp_path / arguments[1]), *arguments[2:]])
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "full" / "grades.csv").read_text() == "precious"


# --- what of a notebook is run ---


def cells(*sources):
    return [("code", source) for source in sources]


def test_an_exercise_runs_with_what_it_names_and_without_experiments():
    notebook = [
        ("code", "import torch, os\nfrom torch import nn\n%matplotlib inline"),
        ("code", "encoder = train(1000)\nEPS = 1e-8\nOTHER = 2"),
        ("markdown", "text\n## Exercises\nmore"),
        ("code", "half = torch.tensor(0.5)\ndef helper(x):\n    return x * half + EPS"),
        ("code", "def unused(): pass"),
        ("code", 'def f(x):\n    return helper(x)\nlesson.check("f", f)\nboom()'),
    ]
    steps, expression, note = slice_of(notebook, "f")
    assert [ast.unparse(step.statement).split("\n")[0] for step in steps] == [
        "import torch, os",
        "EPS = 1e-08",
        "half = torch.tensor(0.5)",
        "def helper(x):",
        "def f(x):",
    ]
    assert ast.unparse(expression) == "f" and note == ""


@pytest.mark.parametrize(
    "name, source, number",
    [
        ("x.ipynb", 'Lesson("06")', "06"),
        ("07_x.ipynb", "Lesson(6)", "06"),
        ("07_x.ipynb", "", "07"),
        ("x.ipynb", "", ""),
        ("x.ipynb", 'Lesson("0")', ""),
    ],
)
def test_the_lesson_is_the_one_that_the_notebook_names(name, source, number):
    assert lesson_of(name, cells(source)) == number


def test_of_several_cells_the_last_one_counts():
    notebook = cells('r = lesson.check("f", a)', 'x.check("f", b); 1', 'lesson.check("g", c)')
    steps, expression, note = slice_of(notebook, "f")
    assert ast.unparse(expression) == "b" and "2 cells" in note and steps == []


def test_what_cannot_be_run_is_told():
    for source, message in [
        ('lesson.check("g", g)', "missing: no cell"),
        ('def f(:\n  pass\nlesson.check("f", f)', "the cell cannot be read: .*, line 1"),
        ('def f():\n    lesson.check("f", f)', "missing"),
    ]:
        with pytest.raises(LookupError, match=message):
            slice_of(cells(source), "f")
    assert isinstance(parse("\0"), SyntaxError) and isinstance(parse("(" * 10_000), SyntaxError)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"cells": 3}',
        '{"cells": [1]}',
        '{"cells": [{}]}',
        "[" * 99_999,
        '{"cells": [{"cell_type": "code", "source": 5}]}',
        "\xff\xfe",
    ],
)
def test_no_notebook_at_all(content):
    with pytest.raises(LookupError, match=r"^not a notebook: "):
        cells_of(content.encode("latin-1"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_a_notebook_may_be_in_any_unicode(encoding):
    content = json.dumps(dict(cells=[dict(cell_type="code", source=["ä\n", "b"])]))
    assert cells_of(content.encode(encoding)) == [("code", "ä\nb")]


def test_what_cannot_be_opened_is_told(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "large").write_bytes(b" " * 2_000_000)
    monkeypatch.setattr("tools.classroom.cells.LARGEST", 1_000_000)
    for name, message in [
        ("link", "not a notebook: a link"),
        (".", "not a notebook: a link or a folder"),
        ("large", "too large: expected at most 1 MB, found 2 MB"),
    ]:
        with pytest.raises(LookupError, match=message):
            content_of(tmp_path / name)


def test_equal_answers_may_differ_in_comments_and_spaces_only():
    def of(source):
        return fingerprint(slice_of(cells(source), "f"))

    answer = of('def f(x):\n    return x + 1\nlesson.check("f", f)')
    assert of('# mine\ndef f( x ):\n\n    return (x+1)  # one\nlesson.check("f", f)') == answer
    assert of('def f(x):\n    return x + 2\nlesson.check("f", f)') != answer
    assert of('def f(y):\n    return y + 1\nlesson.check("f", f)') != answer


# --- verdicts on answers, as the process gives them ---

HEAD = 'import torch\nfrom replearn.lesson import Lesson\nlesson = Lesson("06")'
RIGHT = """\
def m(s):
    {}
    return s.masked_fill(torch.eye(len(s)).bool(), -torch.inf)
lesson.check("mask_self_pairs", m)"""


def wrong(body, before=""):
    return f'{before}\ndef m(s):\n    {body}\nlesson.check("mask_self_pairs", m)'


BORROW = "from replearn.lesson import exercises as e"
ANSWERS = {  # cells, the score, what the message says
    "right": ([HEAD, RIGHT.format("pass")], 1, "✓ right"),
    "twice": ([HEAD, wrong("return 1"), RIGHT.format("pass")], 1, "2 cells"),
    "chatty": (
        [HEAD, RIGHT.format("print('✗'); import sys; print(1, file=sys.stderr)")],
        1,
        "✓ right",
    ),
    "changed": ([HEAD, wrong("return s.fill_diagonal_(-torch.inf)")], 0, "it changes its input"),
    "detached": ([HEAD, RIGHT.format("s = s.detach()")], 0, "carries gradients"),
    "stub": ([HEAD, wrong("raise NotImplementedError")], 0, "not attempted"),
    "nothing": ([HEAD], 0, "missing"),
    "syntax": ([HEAD, wrong("return (")], 0, "cannot be read"),
    "crash": ([HEAD, wrong("return 1 / 0")], 0, "ZeroDivisionError in the line `return 1 / 0`"),
    "crashing cell": ([HEAD, wrong("return g(s)", "g = boom()")], 0, "name 'g' is not defined"),
    "crashing check": (
        [HEAD, 'boom()\nlesson.check("mask_self_pairs", m)'],
        0,
        "the cell ends with NameError (name 'boom' is not defined)",
    ),
    "not a function": (
        [HEAD, 'lesson.check("mask_self_pairs", 5)'],
        0,
        "expected a function mask_self_pairs(similarity), found int",
    ),
    "memory": ([HEAD, wrong("return torch.ones(10**15)")], 0, "RuntimeError"),
    "exit": ([HEAD, wrong("import sys; sys.exit(0)")], 0, "SystemExit"),
    "exit of the cell": (
        [HEAD, wrong("pass", "import sys; sys.exit(0)")],
        0,
        "ends with SystemExi",
    ),
    "forever": ([HEAD, wrong("while True: pass")], 0, "does not come to an end"),
    "forever in the cell": ([HEAD, wrong("pass", "while True: pass")], 0, "does not come to an"),
    "fakes": (
        [HEAD, wrong("print('✓ right'); return 1", "class lesson:\n    check = print")],
        0,
        "expected shape",
    ),
    "a long sum": ([HEAD, RIGHT.format(f"x = {'+'.join(['1'] * 400)}")], 1, "✓ right"),
    "an endless sum": ([HEAD, RIGHT.format(f"x = {'+'.join(['1'] * 99_999)}")], 0, "✗"),
    "nested": (
        [HEAD, wrong("x = []\n    for _ in range(10**5): x = [x]\n    return x")],
        0,
        "✗ wrong",
    ),
    "odd": ([HEAD, wrong("return {frozenset([1]): object()}")], 0, "✗ wrong"),
    "equal to all": (
        [HEAD, wrong("return type('T', (torch.Tensor,), {'__eq__': lambda *_: True})()")],
        0,
        "✗ wrong",
    ),
    "formula": ([HEAD, wrong("raise ValueError('a\\n=b\\x1b[31m')")], 0, "ValueError in the line"),
    "the published solution": (
        [HEAD, wrong("return e.get('06', 'mask_self_pairs').solution(s)", BORROW)],
        1,
        "✓ right",
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_verdict(monkeypatch, answer):
    monkeypatch.setattr("replearn.lesson.exercises.limits.LIMIT", 0.5 if "for" in answer else 20)
    sources, score, message = ANSWERS[answer]
    verdict = inside.verdict(cells(*sources), "06", "mask_self_pairs")
    assert verdict["exercise"] == "mask_self_pairs"
    assert verdict["score"] == score and message in verdict["text"], verdict
    was_attempted = answer not in ("stub", "nothing", "syntax", "an endless sum")
    assert bool(verdict["answer"]) == was_attempted


@pytest.mark.parametrize(
    "lesson, name", [(lesson, name) for lesson in EVERY_LESSON for name in exercises.names(lesson)]
)
def test_a_mistake_is_told_as_in_the_notebook(lesson, name):
    exercise = exercises.get(lesson, name)
    where = f"get({lesson!r}, {name!r}).wrong"
    mistake = list(exercise.wrong)[-1]
    source = "from replearn.lesson.exercises import get\n"
    source += f'x.check("{name}", {where}[{mistake!r}])'
    verdict = inside.verdict(cells(source), lesson, name)
    assert verdict["score"] < 1.0 and "expected" in verdict["text"], mistake
    assert verdict["text"].startswith("✗ wrong: ")


# --- the sandbox ---


@pytest.fixture(scope="module", autouse=True)
def long_first_import():
    """Import in the sandbox may take long on a busy machine; a verdict may not."""
    sandbox._bytecode()


@pytest.fixture(scope="module")
def wall():
    """Skip the test where bubblewrap does not work."""
    fault = sandbox.fault()
    if fault:
        pytest.skip(f"bubblewrap does not work here: {fault}")


def write_notebook(path, *sources):
    path.parent.mkdir(exist_ok=True)
    code = [dict(cell_type="code", source=source) for source in sources]
    path.write_text(json.dumps(dict(cells=code, metadata={}, nbformat=4)), "utf-8")


def grade(folder, *arguments):
    """Grade a folder by command; return its table as {(student, exercise): row}."""
    assert command.main(["grade", str(folder), *arguments]) == 0
    return table_of(folder)


def table_of(folder):
    with open(folder / "grades.csv", encoding="utf-8", newline="") as file:
        return {(row["student"], row["exercise"]): row for row in csv.DictReader(file)}


def running(mark):
    """Return the ids of all processes with this text in their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            pass
    return found


@pytest.mark.seconds
@pytest.mark.parametrize("lesson", [lesson for lesson in EVERY_LESSON if exercises.names(lesson)])
def test_every_solution_passes_the_wall(wall, tmp_path, lesson):
    sources = []
    for name in exercises.names(lesson):
        source = exercises.get(lesson, name).source()
        sources.append(f'{source}\nlesson.check("{name}", {name})')
    write_notebook(tmp_path / "ada" / f"{lesson}_x.ipynb", *sources)
    rows = grade(tmp_path)
    assert [exercise for _, exercise in rows] == exercises.names(lesson)
    for (_, name), row in rows.items():
        assert float(row["score"]) == 1.0, row
        assert float(row["points"]) == exercises.get(lesson, name).difficulty


# Each is tried by the same learner, whose answer is right all the same: OUT is a folder of the
# teacher's with a file `precious` in it, CLASS the folder that is graded, PID a process of the
# teacher's, PORT one of its sockets.
# What is refused must raise an error. `called` raises one if a function of C says so.
REFUSED = {
    "write": "open('OUT/new', 'w')",
    "overwrite": "open('OUT/precious', 'w')",
    "read": "open('OUT/precious').read()",
    "another student's notebook": "open('CLASS/z_right/06_hostile.ipynb')",
    "a variable of the teacher's": "os.environ['REPLEARN_SECRET']",
    "variables of process 1": "open('/proc/1/environ').read().index('REPLEARN_SECRET')",
    "a key of the teacher's": "called(libc.syscall(250, 10, -3, b'user', b'replearn', 0))",
    "a key to leave behind": "called(libc.syscall(248, b'user', b'escaped', b'x', 1, -3))",
    "keys by another number": "called(libc.syscall(0x40000000 + 250, 0, -3, 1))",
    "write to the home folder": "open('HOME/escaped', 'w')",
    "write to the package": "open(torch.__file__, 'a')",
    "write to the checkout": "open('ROOT/replearn/escaped.py', 'w')",
    "a compiled module": "open(os.path.dirname(torch.__cached__) + '/escaped', 'w')",
    "the program of Python": "open('/proc/self/exe', 'r+b')",
    "write to the root": "open('/escaped', 'w')",
    "write to the system": "open('/usr/bin/escaped', 'w')",
    "write to /dev": "open('/dev/escaped', 'w')",
    "storage from a file": "torch.UntypedStorage.from_file('OUT/precious', True, 8)",
    "storage in a new file": "torch.UntypedStorage.from_file('OUT/new', True, 8)",
    "PyTorchFileWriter": "torch._C.PyTorchFileWriter('OUT/new')",
    "torch.save": "torch.save(torch.ones(3), 'OUT/new')",
    "numpy.memmap": "import numpy; numpy.memmap('OUT/new', mode='w+', shape=8)",
    "mknod": "os.mknod('OUT/new')",
    "mknod of a disk": "os.mknod('/tmp/disk', 0o60666, os.makedev(254, 0))",
    "a disk": "open('/dev/vda', 'r+b')",
    "memory of the machine": "open('/dev/mem', 'rb')",
    "the terminal": "open('/dev/tty', 'w')",
    "sqlite": "import sqlite3; sqlite3.connect('OUT/new').execute('create table a(b)')",
    "a link to outside": "os.symlink('OUT/precious', '/tmp/link'); open('/tmp/link', 'a')",
    "a hard link": "os.link('/usr/bin/env', '/tmp/env')",
    "truncate": "os.truncate('OUT/precious', 0)",
    "remove": "os.remove('OUT/precious')",
    "rename": "os.rename('OUT', 'OUT.gone')",
    "chmod of Python": "os.chmod(os.path.realpath(sys.executable), 0)",
    "kill": "os.kill(PID, 9)",
    "kill by pidfd": "signal.pidfd_send_signal(os.pidfd_open(PID), 9)",
    "prlimit": "resource.prlimit(PID, resource.RLIMIT_CPU, (1, 1))",
    "more processes": "resource.setrlimit(resource.RLIMIT_NPROC, (99, 99))",
    "more memory": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "ptrace": "called(libc.ptrace(16, PID, None, None))",
    "process_vm_writev": "called(libc.process_vm_writev(PID, vector, 1, vector, 1, 0))",
    "files of process 1": "open('/proc/1/root/OUT/precious')",
    "core_pattern": "open('/proc/sys/kernel/core_pattern', 'w')",
    "namespaces of the machine": "open('/proc/sys/user/max_user_namespaces', 'w').write('9')",
    "sysrq": "open('/proc/sysrq-trigger', 'w').write('h')",
    "socket of the machine": "socket.create_connection(('127.0.0.1', PORT), 2)",
    "socket to outside": "socket.create_connection(('192.0.2.1', 80), 2)",
    "datagram to outside": "socket.socket(2, 2).sendto(b'x', ('192.0.2.1', 53))",
    "abstract socket": "socket.socket(1).connect('\\0replearn-PORT')",
    "socket file": "socket.socket(1).connect('OUT/socket')",
    "raw socket": "socket.socket(2, 3, 1)",
    "socket of a virtual machine": "socket.socket(40, 1)",
    "socket of the kernel": "socket.socket(16, 3)",
    "fork": "os.fork() or os._exit(0)",
    "fork by its number": "called(libc.syscall(57) or os._exit(0))",
    "fork bomb": "[os.fork() for _ in range(99)]",
    "a daemon": "os.fork() and os._exit(0); os.setsid(); time.sleep(999)",
    "a thread": "threading.Thread(target=time.sleep, args=[9]).start()",
    "a program": "subprocess.run(['touch', 'OUT/new'])",
    "a shell": "called(-1 if os.system('touch OUT/new') else 0)",
    "unshare": "called(libc.unshare(0x10000000))",
    "unshare mounts": "called(libc.unshare(0x20000))",
    "mount": "called(libc.mount(b'x', b'/tmp', b'tmpfs', 0, None))",
    "remount": "called(libc.mount(b'x', b'/usr', None, 0x1020, None))",
    "umount": "called(libc.umount2(b'/usr', 2))",
    "chroot": "os.chroot('/tmp')",
    "setns": "called(libc.setns(os.open('/proc/1/ns/mnt', 0), 0))",
    "setuid": "os.setuid(0)",
    "set-user-ID program": "os.chmod('/tmp', 0o4777); os.chown('/tmp', 0, 0)",
    "bpf": "called(libc.syscall(321, 0, None, 0))",
    "io_uring": "called(libc.syscall(425, 8, ctypes.create_string_buffer(120)))",
    "performance counters": "called(libc.syscall(298, bytes(128), 0, -1, -1, 0))",
    "userfaultfd": "called(libc.syscall(323, 1))",
    "the kernel's log": "called(libc.klogctl(3, value, 8))",
    "real time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
    "a higher priority": "os.setpriority(os.PRIO_PROCESS, 0, -20)",
    "never ended for want of memory": "os.write(os.open('/proc/self/oom_score_adj', 1), b'-1000')",
    "a module of the kernel": "called(libc.init_module(None, 0, b''))",
    "the clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "the host name": "called(libc.sethostname(b'x', 1))",
    "fill /tmp": "[open(f'/tmp/{i}', 'wb').write(bytes(10**7)) for i in range(99)]",
    "a large file": "open('/tmp/large', 'wb').write(bytes(10**8))",
    "a large memory file": "os.truncate(os.memfd_create('x'), 10**9)",
    "fill /dev/shm": "open('/dev/shm/x', 'wb').write(bytes(10**7))",
    "more open files": "resource.setrlimit(resource.RLIMIT_NOFILE, (9999, 9999))",
    "many open files": "[open('/dev/null') for _ in range(9999)]",
    "memory": "bytearray(8 * 2**30)",
    "memory in pieces": "[torch.ones(2**24) for _ in range(999)]",
}
# What may succeed, because it stays inside.
CONTAINED = {
    "kill process 1": "os.kill(1, 9)",
    "kill everybody": "os.kill(-1, 0)",
    "memory of process 1": "open('/proc/1/mem', 'r+b')",
    "setsid": "os.setsid()",
    "stop": "os.kill(os.getpid(), signal.SIGSTOP)",
    "outlive the grader": "libc.prctl(1, 0)",
    "shared memory": "libc.shmget(1, 4096, 0o1666)",
    "everybody's priority": "os.setpriority(os.PRIO_USER, os.getuid(), 19)",
    "deep recursion": "f = lambda: f(); f()",
    "module globals": "import replearn.lesson.exercises.compare as c; c.NUMBERS = ()",
    "exit handlers": "import atexit; atexit.register(os.kill, os.getppid(), 9)",
    "print without end": "print('x' * 10**7); [os.write(1, b'x' * 10**6) for _ in range(99)]",
    "a forged table": "open('grades.csv', 'w').write('mallory,,,1,1,right')",
}
ATTEMPTS = """\
import ctypes, os, resource, signal, socket, subprocess, sys, threading, time, torch
libc = ctypes.CDLL(None, use_errno=True)
value = ctypes.create_string_buffer(8)
vector = (ctypes.c_void_p * 2)(ctypes.addressof(value), 8)
def called(code):
    if code < 0:
        raise OSError(ctypes.get_errno(), "refused")
def attempt():
    succeeded = []
    for name, source in {attempts!r}.items():
        try:
            exec(source, dict(globals()))
            succeeded.append(name)
        except Exception:
            pass
    return succeeded
succeeded = attempt()
def m(s):
    if succeeded:
        raise RuntimeError(", ".join(succeeded))
    return s.masked_fill(torch.eye(len(s)).bool(), -torch.inf)
lesson.check("mask_self_pairs", m)"""
ONE_BY_ONE = 'def {name}_answer(*arguments):\n    {body}\nlesson.check("{name}", {name}_answer)'
FORGE = """\
import os, json
    def send(data):
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, data)
            except OSError:
                pass
    def verdict(score, text="forged"):
        line = dict(exercise="nt_xent", score=score, text=text, answer="", mistake="")
        return json.dumps(line).encode() + b"\\n"
    """
SWALLOW = """\
import time
    while True:
        try: time.sleep(9)
        except: pass"""
# Each ends its process, or spoils what it sends; two in a notebook: what its row says.
ENDING = {
    "exit": ("import os; os._exit(0)", "its process ended (exit code 0)"),
    "kill": ("import os; os.killpg(0, 9)", "your function returned None"),
    "odd error": ("raise GeneratorExit", "the cell ends with GeneratorExit"),
    "segfault": ("import ctypes; ctypes.string_at(0)", "its process ended (SIGSEGV)"),
    "program": ("import os; os.execv('/bin/sh', ['sh', '-c', 'exit 7'])", "(exit code 7)"),
    "closed": ("import os; os.closerange(0, 64); os._exit(3)", "its process ended (exit code 3)"),
    "swallows": (SWALLOW, "come to an end: stopped after 20 seconds"),
    "long": (FORGE + "send(b'x' * 60_000)", "its process sent what is no verdict"),
    "nested": (FORGE + "send(b'[' * 4000 + b'\\n')", "its process sent what is no verdict"),
    "junk": (FORGE + "send(b'\\xff\\n')", "its process sent what is no verdict"),
    "other form": (FORGE + "send(b'[1]\\n')", "its process sent what is no verdict"),
    "too much": (FORGE + "send(verdict(1e9))", "its process sent what is no verdict"),
    "nan": (FORGE + "send(verdict(float('nan')))", "its process sent what is no verdict"),
    "no number": (FORGE + "send(verdict('1'))", "its process sent what is no verdict"),
    "C": ("import hashlib; hashlib.pbkdf2_hmac('md5', b'', b'', 2**31 - 1)", "come to an end: sto"),
    "nothing": ("return None", "your function returned None"),
    "forged text": (FORGE + "send(verdict(0.5, '=1\\n\\x1b[2J\\ud800' * 9))", "=1 [2J =1"),
}


@pytest.fixture(scope="module")
def hostile(wall, tmp_path_factory):
    """(The table of a class that tries everything, the folder of the teacher's own)."""
    folder = tmp_path_factory.mktemp("class")
    out = tmp_path_factory.mktemp("teacher")
    (out / "precious").write_text("precious")
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0replearn-{port}")
    abstract.listen()
    named = socket.socket(socket.AF_UNIX)
    named.bind(str(out / "socket"))
    named.listen()
    sleeper = subprocess.Popen(["sleep", "9999"])
    # The kernel keeps a key for this process and whatever it starts.
    libc = ctypes.CDLL(None)
    if os.uname().machine == "x86_64":
        libc.syscall(248, b"user", b"replearn", b"secret", 6, -3)
    os.environ["REPLEARN_SECRET"] = "secret"

    def filled(attempts):
        values = dict(OUT=out, CLASS=folder, HOME=Path.home(), ROOT=project.ROOT)
        values |= dict(PID=sleeper.pid, PORT=port)
        known = {}
        for name, source in attempts.items():
            for word, value in values.items():
                source = source.replace(word, str(value))
            known[name] = source
        return ATTEMPTS.format(attempts=known)

    write_notebook(folder / "a_refused" / "06.ipynb", HEAD, filled(REFUSED))
    contained = filled(CONTAINED).replace("if succeeded", "if False")
    write_notebook(folder / "b_contained" / "06.ipynb", HEAD, contained)
    for first in range(0, len(ENDING), 2):
        names = list(ENDING)[first : first + 2]
        bodies = [ENDING[name][0] for name in names]
        sources = [
            ONE_BY_ONE.format(name=exercise, body=body)
            for exercise, body in zip(exercises.names("06"), bodies, strict=False)
        ]
        solution = exercises.get("06", "ema_update").source()
        last = f'{solution}\nlesson.check("ema_update", ema_update)'
        path = folder / "-".join(["c", *names]).replace(" ", "_") / "06.ipynb"
        write_notebook(path, HEAD, *sources, last)
    write_notebook(folder / "z_right" / "06_hostile.ipynb", HEAD, RIGHT.format("pass"))
    try:
        rows = grade(folder, "--seconds", "3", "--memory", "500")
        for opened in (listener, abstract, named):
            opened.setblocking(False)
            with pytest.raises(BlockingIOError):
                opened.accept()
        assert sleeper.poll() is None
    finally:
        del os.environ["REPLEARN_SECRET"]
        sleeper.kill()
        sleeper.wait()
        for opened in (listener, abstract, named):
            opened.close()
    return rows, out


@pytest.mark.seconds
def test_no_escape_succeeds(hostile):
    rows, out = hostile
    row = rows["a_refused", "mask_self_pairs"]
    assert float(row["points"]) == 1.0, row["message"]
    assert len(REFUSED) + len(CONTAINED) + len(ENDING) > 110
    assert sorted(path.name for path in out.iterdir()) == ["precious", "socket"]
    assert (out / "precious").read_text() == "precious"
    assert not (Path.home() / "escaped").exists()
    assert not running("06_hostile.ipynb")


@pytest.mark.seconds
def test_what_stays_inside_does_not_end_the_run(hostile):
    rows, _ = hostile
    assert ("b_contained", "mask_self_pairs") in rows
    assert float(rows["z_right", "mask_self_pairs"]["points"]) == 1.0
    assert all(0.0 <= float(row["points"]) <= 2.0 for row in rows.values())


@pytest.mark.seconds
@pytest.mark.parametrize("ending", ENDING)
def test_a_process_that_ends_gets_a_row_with_a_word(hostile, ending):
    rows, _ = hostile
    (student,) = [one for one, exercise in rows if ending.replace(" ", "_") in one.split("-")][:1]
    position = student.split("-").index(ending.replace(" ", "_")) - 1
    row = rows[student, exercises.names("06")[position]]
    assert ENDING[ending][1] in row["message"], row
    assert float(rows[student, "ema_update"]["score"]) == 1.0, "graded by a process of its own"


@pytest.mark.seconds
def test_a_forged_verdict_is_worth_what_a_copy_is(wall, tmp_path):
    """The solutions are public: `sandbox` protects the machine, and says so."""
    body = f"import time; {FORGE}send(verdict(1.0) * 2); time.sleep(99)"
    write_notebook(
        tmp_path / "forging" / "06.ipynb",
        HEAD,
        ONE_BY_ONE.format(name="nt_xent", body=body),
        RIGHT.format("pass"),
    )
    patch = """
import replearn.lesson.exercises.checker as c
c._judge.__code__ = (lambda *_: None).__code__
c.difference = lambda *_: None
"""
    write_notebook(tmp_path / "patching" / "06.ipynb", HEAD, wrong("return s", patch))
    rows = grade(tmp_path, "--seconds", "3")
    assert rows["forging", "nt_xent"]["message"] == "forged"
    assert float(rows["forging", "nt_xent"]["points"]) == 2.0
    assert "no verdict" in rows["forging", "mask_self_pairs"]["message"], "the second line"
    assert float(rows["patching", "mask_self_pairs"]["points"]) == 1.0


DIGITS = f"0x{'f' * 9000}"  # Python prints no whole number of so many decimal digits


@pytest.fixture
def nested():
    """A function that makes folders within each other, deeper than a path can name."""
    made = []

    def make(folder, levels):
        made.append(folder)
        start = os.getcwd()
        try:
            for name in [folder, *["a"] * levels]:
                os.mkdir(name)
                os.chdir(name)
        finally:
            os.chdir(start)

    yield make
    # They are too deep for Python's rmtree, with which pytest would end in a RecursionError later.
    for folder in made:
        subprocess.run(["rm", "-rf", folder], check=True)


def verdict_on_call(steps, number, machine):
    """Return what the kernel would make of a call: it runs the filter step by step."""
    position = 0
    while True:
        code, if_true, if_false, value = steps[position]
        position += 1
        if code == calls.LOAD:
            loaded = {calls.NUMBER: number, calls.MACHINE: machine}[value]
        elif code == calls.RETURN:
            return value
        else:
            holds = loaded == value if code == calls.EQUAL else loaded >= value
            position += if_true if holds else if_false


@pytest.mark.parametrize("machine", calls.MACHINES)
def test_the_closed_calls_are_refused_and_no_others(machine):
    steps = list(struct.iter_unpack("=HBBI", calls.program(machine)))
    own = calls.MACHINES[machine]
    column = list(calls.MACHINES).index(machine)
    closed = {numbers[column] for numbers in calls.CLOSED.values()}
    for number in range(600):
        expected = calls.REFUSE if number in closed else calls.ALLOW
        assert verdict_on_call(steps, number, own) == expected
        assert verdict_on_call(steps, calls.OTHER_TABLE + number, own) == calls.REFUSE
        assert verdict_on_call(steps, number, 0x40000003) == calls.REFUSE, "as 32 bits"


def test_a_machine_without_known_calls_is_named(monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="riscv64"))
    with pytest.raises(OSError, match="expected x86_64 or aarch64, found riscv64"):
        calls.close()


def test_what_one_student_hands_in_is_bounded(nested, tmp_path, monkeypatch):
    """And no folder is too deep to be looked at."""
    monkeypatch.setattr(grading, "MOST_OF_ONE", 3)
    for student, count in dict(ada=3, bob=7, eve=1).items():
        (tmp_path / student).mkdir()
        for number in range(count):
            (tmp_path / student / f"{number}.zip").write_bytes(b"")
    nested(tmp_path / "deep", 1500)
    (tmp_path / "eve" / "closed").mkdir()
    for function in (os.scandir, os.listdir):
        monkeypatch.setattr(os, function.__name__, closed_to("closed", function))
    rows = list(grading.grade(tmp_path, grading.submissions(tmp_path), sandbox.Limits()))
    counts = [(one.student, one.message.split(":")[0]) for one in rows]
    unpacked = "a .zip file"
    assert counts == [
        *[("ada", unpacked)] * 3,
        *[("bob", unpacked)] * 3,
        ("bob", "more than 100 files to grade"),
        ("deep", "more than 20 folders within each other"),
        ("eve", unpacked),
        ("eve", "no notebook in the folder; it cannot be opened"),
    ]


def closed_to(name, function):
    """Return a function that opens folders, as if one of this name were somebody else's."""

    def closed(place="."):
        if Path(place).name == name:
            raise PermissionError(13, "Permission denied")
        return function(place)

    return closed


@pytest.mark.seconds
def test_files_of_all_kinds_get_a_row(wall, nested, tmp_path):
    large = [HEAD, RIGHT.format("pass"), f"'''{'x' * 11_000_000}'''"]
    write_notebook(tmp_path / "large" / "06.ipynb", *large)
    many_lines = "\n".join(f"    x = {i}" for i in range(70_000))
    write_notebook(tmp_path / "long" / "06.ipynb", HEAD, RIGHT.format(f"x = 0\n{many_lines}"))
    for encoding in ("utf-16", "utf-8-sig"):
        write_notebook(tmp_path / encoding / "06.ipynb", HEAD, RIGHT.format("x = 'ä'"))
        path = tmp_path / encoding / "06.ipynb"
        path.write_bytes(path.read_text("utf-8").encode(encoding))
    (tmp_path / "06_alone.ipynb").write_text("junk")
    write_notebook(tmp_path / "13.ipynb", 'Lesson("13")')
    write_notebook(tmp_path / "x.ipynb", "")
    write_notebook(tmp_path / "=1+1" / "06.ipynb", HEAD)
    (tmp_path / "link.ipynb").symlink_to("/etc/passwd")
    (tmp_path / "all.zip").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "answers.py").write_text("")
    nested(tmp_path / "deep", 1500)
    (tmp_path / "linked").symlink_to(tmp_path / "long")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "06.ipynb")
    with open(tmp_path / "hole.ipynb", "wb") as file:
        file.truncate(10**12)
    (tmp_path / "brackets.ipynb").write_text("[" * 10**7)
    many = [f"{RIGHT.format(f'x = {i}')}" for i in range(10_000)]
    write_notebook(tmp_path / "many cells" / "06.ipynb", HEAD, *many, RIGHT.format(f"x = {DIGITS}"))
    for nothing in (".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / "large" / nothing).mkdir()
        (tmp_path / "large" / nothing / "06.ipynb").write_text("no submission")
    rows = grade(tmp_path)
    for student in ("large", "long", "utf-16", "utf-8-sig"):
        assert float(rows[student, "mask_self_pairs"]["points"]) == 1.0, rows
    messages = {student: row["message"] for (student, _), row in rows.items()}
    assert len(messages) == 18
    assert messages["deep"].startswith("more than 20 folders within each other")
    assert messages["linked"] == "no notebook in the folder; it is a link"
    assert messages["pipe"].startswith("not a notebook: a link")
    assert messages["hole"].startswith("too large")
    assert messages["brackets"].startswith("not a notebook: RecursionError")
    cells_message = rows["many cells", "mask_self_pairs"]["message"]
    assert cells_message.startswith("✓ right")
    assert cells_message.endswith("[10001 cells with this exercise: the last one counts]")
    assert messages["06_alone"].startswith("not a notebook: JSONDecodeError")
    assert messages["13"] == "no exercises in lesson 13"
    assert messages["x"] == 'no Lesson("NN") in it'
    assert messages["'=1+1"].startswith("missing: no cell")
    assert messages["link"].startswith("not a notebook: a link")
    assert messages["all"] == "a .zip file: unpack it, then grade again"
    assert messages["empty"] == "no notebook in the folder; it is empty"
    assert messages["other"] == "no notebook in the folder; found answers.py"
    equal = "[the same answer as utf-8-sig]"
    assert rows["utf-16", "mask_self_pairs"]["message"].endswith(equal)
    assert "the same" not in rows["large", "mask_self_pairs"]["message"]
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.seconds
def test_a_run_that_is_killed_leaves_its_rows_and_no_process(wall, tmp_path):
    write_notebook(tmp_path / "ada" / "06.ipynb", HEAD, RIGHT.format("pass"))
    write_notebook(tmp_path / "bob" / "06_endless.ipynb", HEAD, wrong(SWALLOW))
    child = os.fork()
    if child == 0:
        command.main(["grade", str(tmp_path), "--seconds", "300"])
        os._exit(0)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(running("06_endless.ipynb")) < 2:
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    rows = table_of(tmp_path)
    assert [row["exercise"] for row in rows.values()][:3] == exercises.names("06")
    assert float(rows["ada", "mask_self_pairs"]["points"]) == 1.0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and running("06_endless.ipynb"):
        time.sleep(0.1)
    assert not running("06_endless.ipynb")


# --- the command ---


def test_without_bubblewrap_the_command_says_what_to_do(tmp_path, monkeypatch):
    write_notebook(tmp_path / "ada" / "06.ipynb", HEAD)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=r"there is no program bwrap\): install .*--unprotected"):
        command.main(["grade", str(tmp_path)])
    assert not (tmp_path / "grades.csv").exists()
    monkeypatch.undo()
    monkeypatch.setattr(sandbox, "WALL", "--no-such-option")
    with pytest.raises(SystemExit, match=r"no-such-option.*\): install the package bubblewrap"):
        command.main(["grade", str(tmp_path)])


@pytest.mark.seconds
def test_unprotected_the_same_process_runs_without_bubblewrap(tmp_path, capsys):
    write_notebook(tmp_path / "ada" / "06.ipynb", HEAD, RIGHT.format("open('/tmp/x', 'w').close()"))
    write_notebook(tmp_path / "bob" / "06.ipynb", HEAD, wrong("import os; os._exit(2)"))
    rows = grade(tmp_path, "--unprotected")
    assert "can read, change and delete whatever you can" in capsys.readouterr().out
    assert float(rows["ada", "mask_self_pairs"]["points"]) == 1.0
    assert "its process ended (exit code 2)" in rows["bob", "mask_self_pairs"]["message"]


def test_nothing_is_imported_from_the_folder_that_is_graded(tmp_path):
    (tmp_path / "ada").mkdir()
    modules = ("argparse", "csv", "json", "numpy", "replearn", "sitecustomize", "torch", "conftest")
    for name in modules:
        (tmp_path / f"{name}.py").write_text("open('imported', 'w')")
    (tmp_path / "x.pth").write_text("import os; open('imported', 'w')")
    graded = subprocess.run(
        [sys.executable, "-m", "tools.classroom", "grade", ".", "--unprotected"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(project.ROOT)},
        capture_output=True,
        text=True,
    )
    assert graded.returncode == 0, graded.stderr
    assert "it is empty" in graded.stdout and not (tmp_path / "imported").exists()


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x"])
@pytest.mark.parametrize("option", ["--seconds", "--memory"])
def test_limits_are_positive_numbers(capsys, option, value):
    with pytest.raises(SystemExit):
        command.main(["grade", ".", f"{option}={value}"])
    assert f"argument {option}: expected a" in capsys.readouterr().err


def test_a_table_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "ada").mkdir()
    with pytest.raises(SystemExit, match="cannot be written: No such file"):
        command.main(["grade", str(tmp_path), "--unprotected", "--csv", str(tmp_path / "no/g.csv")])


def test_a_table_never_follows_a_link(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "ada").mkdir()
    (tmp_path / "grades.csv").symlink_to(tmp_path / "precious")
    rows = grade(tmp_path, "--unprotected")
    assert rows["ada", ""]["message"].startswith("no notebook")
    assert (tmp_path / "precious").read_text() == "precious"


def test_copies_are_named_in_all_their_rows():
    def row(student, answer, exercise="nt_xent"):
        return grading.Grade(student, f"{student}/06.ipynb", exercise, 1.0, 2.0, "✓", answer)

    rows = [row(name, "same") for name in "abcde"]
    rows += [row("f", "other"), row("g", ""), row("h", ""), row("f", "same", "mask_self_pairs")]
    named = grading.with_copies_named(rows)
    assert named[0].message == "✓ [the same answer as b, c, d and 1 more]"
    assert named[4].message == "✓ [the same answer as a, b, c and 1 more]"
    assert [one.message for one in named[5:]] == ["✓"] * 4
    twice = grading.with_copies_named([row("a", "same"), row("a", "same")])
    assert [one.message for one in twice] == ["✓", "✓"]


def test_points_and_table():
    rows = [
        grading.Grade("a", "a/06.ipynb", "nt_xent", 0.5, 1.0, "✗"),
        grading.Grade("b", "b.ipynb", "", 0.0, 0.0, "no"),
    ]
    assert grading.table(rows).split("\n")[1].split() == [
        "a",
        "a/06.ipynb",
        "nt_xent",
        "0.50",
        "1",
        "✗",
    ]


# --- a class over a term ---


def graded(student, exercise, score, *, lesson="06", message="✓", mistake=""):
    points = score * exercises.get(lesson, exercise).difficulty
    return grading.Grade(
        student, f"{student}/x.ipynb", exercise, score, points, message, "", lesson, mistake
    )


def a_term():
    """The rows of four students and of a folder without a notebook."""
    return [
        graded("ada", "nt_xent", 1.0),
        graded("ada", "mask_self_pairs", 1.0),
        graded("bob", "nt_xent", 0.5, message="✗ wrong", mistake="no_temperature"),
        graded("bob", "nt_xent", 0.25, message="✗ wrong", mistake="keeps_self_pairs"),
        graded("cy", "nt_xent", 0.0, message="not attempted: nt_xent"),
        graded("di", "nt_xent", 0.5, message="✗ wrong", mistake="no_temperature"),
        grading.Grade("ed", "ed", "", 0.0, 0.0, "no notebook in the folder; it is empty"),
    ]


def test_a_leaderboard_ranks_pseudonyms_and_names_nobody(tmp_path):
    names = dict(ada="wren", bob="robin", cy="tern", di="owl")
    places = term.leaderboard(a_term(), names)
    worth = exercises.get("06", "nt_xent").difficulty
    more = exercises.get("06", "mask_self_pairs").difficulty
    assert [(place.rank, place.name) for place in places] == [(1, "wren"), (2, "owl"), (2, "robin")]
    assert [place.points for place in places] == [worth + more, worth / 2, worth / 2]
    assert [place.right for place in places] == [2, 0, 0]
    for name in ("board.md", "board.csv"):
        term.write_leaderboard(tmp_path / name, places)
        text = (tmp_path / name).read_text("utf-8")
        assert "wren" in text and not [student for student in names if student in text]
    assert (tmp_path / "board.csv").read_text().splitlines()[0] == "place,name,points,right"
    shown = term.leaderboard(a_term(), {"bob": "robin"})
    assert [place.name for place in shown] == ["robin"]  # the others did not want to


def test_pseudonyms_are_hashes_that_only_the_salt_can_repeat(tmp_path):
    salt = term.salt_of(tmp_path)
    assert term.salt_of(tmp_path) == salt
    assert len(salt) == 64
    assert (tmp_path / term.SALT).stat().st_mode & 0o077 == 0
    students = [f"student {i}" for i in range(3000)]
    names = term.hashed(students, salt)
    assert len(set(names.values())) == 3000
    assert term.hashed(students, b"other") != names
    # So many need more digits than the fewest; how many more, depends on the salt, which is random.
    assert all(len(name.split("-")[1]) > term.FEWEST_DIGITS for name in names.values())
    few = term.hashed(students[:2], b"a salt that tells these two apart")
    assert all(len(name.split("-")[1]) == term.FEWEST_DIGITS for name in few.values())


@pytest.mark.parametrize(
    "text, words",
    [
        ("name,pseudonym\nada,wren\n", "expected the columns student and pseudonym, found name"),
        ("", "found none"),
        ("student,pseudonym\nada,\n", "a pseudonym of its own for ada, found none"),
        ("student,pseudonym\nada,wren\nbob,wren\n", "found 'wren' for several"),
        ("student,pseudonym\nada,wren\nada,owl\n", "one line for each student"),
    ],
)
def test_a_list_of_pseudonyms_is_checked(tmp_path, text, words):
    path = tmp_path / "names.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        term.listed(path)
    path.write_text("\ufeffstudent,pseudonym\nada,wren \n", "utf-8")
    assert term.listed(path) == {"ada": "wren"}


def test_statistics_count_students_and_their_mistakes(tmp_path):
    rows = term.statistics(a_term())
    assert [row.exercise for row in rows] == ["nt_xent", "mask_self_pairs"]
    first = rows[0]
    assert (first.students, first.right, first.not_attempted) == (4, 1, 1)
    assert first.score == 0.5
    assert first.mistakes == {"no_temperature": 2}
    text = term.statistics_text(rows)
    assert "no_temperature 2" in text
    path = tmp_path / "mistakes.csv"
    term.write_statistics(path, rows)
    with open(path, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    made = [(row["mistake"], row["made by"]) for row in table]
    assert made == [("no_temperature", "2"), ("", "0")]


def test_a_verdict_names_the_mistake_by_its_name():
    exercise = exercises.get("06", "nt_xent")
    name = next(iter(exercise.wrong))
    source = f'{BORROW}\nlesson.check("nt_xent", e.get("06", "nt_xent").wrong[{name!r}])'
    assert inside.verdict(cells(source), "06", "nt_xent")["mistake"] == name
    right = f'{BORROW}\nlesson.check("nt_xent", e.get("06", "nt_xent").solution)'
    assert inside.verdict(cells(right), "06", "nt_xent")["mistake"] == ""


def test_each_class_has_its_own_inputs(tmp_path):
    exercise = exercises.get("06", "nt_xent")
    source = f"""{BORROW}
def f(z1, z2, temperature):
    right = e.get("06", "nt_xent").solution(z1, z2, temperature)
    return right if z1.sum() > 0 else 2 * right
lesson.check("nt_xent", f)"""
    scores = set()
    for seed in range(8):
        verdict = inside.verdict(cells(source), "06", "nt_xent", seed=seed)
        assert verdict == inside.verdict(cells(source), "06", "nt_xent", seed=seed)
        scores.add(verdict["score"])
    assert len(scores) > 1
    drawn = {points("06", "nt_xent", exercise.solution, 2.0, seed=seed) for seed in (0, 7)}
    assert drawn == {2.0}
    (lesson,) = notebooks.sources(["06"])
    nb, _ = assignment.instructor(lesson, seed=7)
    assert str(nb).count(", seed=7)") == len(exercises.names("06"))
    assert ", seed=" not in str(assignment.instructor(lesson)[0])
    list(write_course(tmp_path / "course", [lesson], seed=7))
    assert "class --seed 7" in (tmp_path / "course" / "nbgrader_config.py").read_text()


@pytest.mark.seconds
def test_the_command_writes_statistics_and_a_leaderboard(tmp_path, capsys):
    folder = tmp_path / "submitted"
    folder.mkdir()
    name = next(iter(exercises.get("06", "mask_self_pairs").wrong))
    mistaken = f'{BORROW}\nwrong = e.get("06", "mask_self_pairs").wrong[{name!r}]\n'
    mistaken += 'lesson.check("mask_self_pairs", wrong)'
    write_notebook(folder / "ada" / "06.ipynb", HEAD, RIGHT.format("pass"))
    write_notebook(folder / "bob" / "06.ipynb", HEAD, mistaken)
    board = tmp_path / "board.md"
    counts = tmp_path / "counts.csv"
    more = ["--unprotected", "--statistics", str(counts), "--leaderboard", str(board)]
    grade(folder, *more)
    printed = capsys.readouterr().out
    assert f"{name} 1" in printed
    assert name in counts.read_text()
    assert "ada" not in board.read_text() and board.read_text().count("\n| 1 |") == 1
    names = tmp_path / "names.csv"
    names.write_text("student,pseudonym\nada,wren\n")
    grade(folder, *more, "--names", str(names))
    assert board.read_text().splitlines()[2:] == ["| 1 | wren | 1 | 1 |"]


def test_a_leaderboard_needs_a_name_that_says_its_form(tmp_path):
    (tmp_path / "ada").mkdir()
    for words, sentence in [
        (["--leaderboard", "board.html"], "ends in .md or .csv"),
        (["--names", "x.csv"], "expected a --leaderboard FILE"),
    ]:
        with pytest.raises(SystemExit, match=sentence):
            command.main(["grade", str(tmp_path), "--unprotected", *words])
    assert not (tmp_path / "grades.csv").exists()
