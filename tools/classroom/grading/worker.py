"""What runs in the fork: a learner's cells, and the answers of the function in them, as values.

Nothing that this side says is trusted: see `proxy`, which is the grader's side.
"""

import contextlib
import linecache
import os
import re
import resource
import sys
import tempfile
import traceback

import torch

from replearn.lesson import exercises
from replearn.lesson.exercises import checker as trial
from replearn.lesson.exercises.compare import difference
from tools.classroom.grading.protocol import leaves, pack, receive, send, unpack


def live(sock, memory, seconds):
    """The fork's life: shut off from the rest, then answer what comes through the socket."""
    try:
        os.setsid()
        os.chdir(tempfile.gettempdir())
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nowhere, descriptor)
        _limit(memory, seconds)
        sys.dont_write_bytecode = True
        sys.addaudithook(_forbid)
        _Learner(sock).serve()
    finally:
        os._exit(0)


def _limit(memory, seconds):
    """The limits that the system keeps for us; the memory limit counts from what torch has taken already."""
    limits = dict(CPU=seconds + 1, FSIZE=0, CORE=0, NPROC=0)  # NPROC does not bind root
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as file:
            limits["AS"] = int(file.read().split()[0]) * resource.getpagesize() + memory * 2**20
    for name, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(
                getattr(resource, f"RLIMIT_{name}"), (limit, limit + (name == "CPU"))
            )


_REFUSED = (
    "os.kill",
    "os.fork",
    "os.posix_spawn",
    "os.exec",
    "os.system",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.utime",
    "os.setxattr",
    "subprocess.",
    "socket.",
    "shutil.",
    "pty.",
    "signal.pthread_kill",
)
_CALLS = re.compile(
    r"kill|fork|exec|spawn|system|syscall|ptrace|unlink|remove|rename|socket|process_vm"
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def _forbid(event, arguments):
    """Audit hook (it cannot be taken off again): no processes, signals, sockets, changes to files."""
    refused = event.startswith(_REFUSED)
    refused |= event == "ctypes.dlsym" and bool(_CALLS.search(str(arguments[1])))
    refused |= (
        event == "open" and bool((arguments[2] or 0) & _WRITES) and arguments[0] != os.devnull
    )
    if refused:
        raise PermissionError(f"{event} is not allowed in an exercise")


class _Learner:
    """Runs a learner's cells and calls the function in them. Nothing here is trusted by the grader."""

    def __init__(self, sock):
        self.sock, self.objects, self.calls = sock, [], {}

    def serve(self):
        while True:
            ((task, content),) = receive(self.sock).items()
            try:
                reply = getattr(self, task)(**content)
            except BaseException as error:  # whatever it is, the grader hears of it
                reply = dict(crash=_crash(error))
            send(self.sock, reply)

    def prepare(self, lesson, name, seed, steps, expression):
        """Run the cells, statement by statement; the function is what `expression` then names."""
        self.exercise = exercises.get(lesson, name)
        torch.manual_seed(seed)
        self.cases = self.exercise.cases(
            torch.Generator().manual_seed(seed)
        )  # for arguments that are functions
        sys.modules["replearn.lesson"] = None  # the solutions are no part of an answer
        space, first = {"__name__": "__main__", "lesson": _Silent()}, None
        for number, source in enumerate(steps):
            try:
                exec(_compiled(source, f"<statement {number}>", "exec"), space)
            except Exception as error:  # in the notebook it may have run: cells before the exercises are left out here
                first = first or error
        try:
            fn = eval(_compiled(expression, "<check>", "eval"), space)
        except Exception as error:
            raise (first or error) from None
        self.objects = [fn]
        return dict(callable=callable(fn), kind=type(fn).__name__)

    def call(self, which, arguments):
        arguments = unpack(arguments, self._given)
        before = trial._copy(arguments)
        found = trial._call(self.exercise, self.objects[which], arguments)
        flagged, inputs = [], [tensor for tensor in leaves(arguments) if tensor.requires_grad]
        reply = dict(
            found=pack(found, self._keep, flagged), changed=bool(difference(before, arguments, 0.0))
        )
        self.last = inputs, flagged
        return reply

    def verdict(self, token, seed):
        """For answers that are objects: what the checker says here."""
        result = exercises.check(self.exercise, self.objects[0], seed=seed)
        return dict(token=token, score=result.score, text=result.text)

    def gradient(self, weights):
        """Gradients of the sum of the last call's answers, times the weights, with respect to its inputs."""
        inputs, found = self.last
        total = sum(
            (tensor * unpack(weight, self._given)).sum()
            for tensor, weight in zip(found, weights, strict=True)
        )
        gradients = torch.autograd.grad(total, inputs, allow_unused=True, retain_graph=True)
        return dict(gradients=[pack(gradient, self._keep) for gradient in gradients])

    def _given(self, kind, path):
        """The argument that cannot be sent, from this process's own copy of the cases."""
        value = self.cases
        for key in path:
            value = value[key]
        return value

    def _keep(self, value):
        self.objects.append(value)
        return dict(object=[len(self.objects) - 1, type(value).__name__, callable(value)])


class _Silent:
    """Stands for `lesson` in the cells: everything can be called, nothing happens."""

    seed, device = 0, torch.device("cpu")

    def __getattr__(self, name):
        return lambda *_, **__: None


def _compiled(source, name, mode):
    # So that a crash can show its line.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    return compile(source, name, mode)


def _crash(error):
    """Name of the error, its text, the learner's line."""
    lines = [
        frame.line
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename[:2] in ("<s", "<c")
    ]
    return [type(error).__name__, str(error)[:500], (lines[-1] or "")[:80] if lines else ""]
