"""One clean process that has imported torch, and a fork of it for every exercise."""

import contextlib
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys

import torch

from tools.classroom.grading import worker as learner
from tools.classroom.grading.protocol import exactly

START = 180.0  # seconds in which torch must be imported


class Nursery:
    """The process that is forked for every exercise; `with Nursery() as nursery` ends it and what it started."""

    process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            self.control.close()  # at which it kills its fork and ends
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def child(self, memory, seconds):
        """A socket to a fresh fork with `memory` more MB than torch takes, and `seconds` of processor time."""
        for attempt in range(2):  # a fork before this one may have killed the nursery
            if self.process is None or self.process.poll() is not None or attempt:
                self._start()
            mine, theirs = socket.socketpair()
            with contextlib.suppress(OSError), theirs:
                socket.send_fds(
                    self.control,
                    [json.dumps([memory, math.ceil(seconds)]).encode()],
                    [theirs.fileno()],
                )
                if self.control.recv(1) == b"+":
                    return mine
        raise RuntimeError("the process for the learners' code ends again and again")

    def _start(self):
        self.control, theirs = socket.socketpair()
        self.control.settimeout(START)
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from tools.classroom.grading import fork_server; "
            f"fork_server.nurse({theirs.fileno()})"
        )
        single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            env={**os.environ, **single, "CUDA_VISIBLE_DEVICES": ""},
        )
        theirs.close()
        if self.control.recv(1) != b"+":
            raise RuntimeError(
                "the process for the learners' code does not start: see the lines above"
            )

    def end(self):
        """Kill the fork if it still runs; say how it ended."""
        try:
            self.control.sendall(b"-")
            status = struct.unpack(">i", exactly(self.control, 4, None))[0]
        except (EOFError, OSError):  # it killed the nursery, too: the next exercise gets a new one
            self.process.kill()
            self.process.wait()
            return "its process ended"
        code = os.waitstatus_to_exitcode(status)
        names = {int(one): one.name for one in signal.Signals}
        return f"its process ended ({names.get(-code, f'signal {-code}') if code < 0 else f'exit code {code}'})"


def nurse(control):
    """The nursery's life: a fork for every socket that it is sent, one at a time."""
    torch.set_num_threads(1)
    control, child, status = socket.socket(fileno=control), None, 0
    control.sendall(b"+")
    while True:
        data, sockets, *_ = socket.recv_fds(control, 256, 1)
        if child is not None and data != b"":
            status = _kill(child)
            child = None
        if data == b"":
            return child is None or _kill(child)
        if data == b"-":
            control.sendall(struct.pack(">i", status))
            continue
        if (child := os.fork()) == 0:
            control.close()
            learner.live(socket.socket(fileno=sockets[0]), *json.loads(data))
        os.close(sockets[0])
        control.sendall(b"+")


def _kill(child):
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]
