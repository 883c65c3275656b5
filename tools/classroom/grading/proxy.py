"""A learner's code in a process of its own, and a proxy of its function that the grader can call like any other.

The grader starts one clean process that imports torch (`nursery`); each exercise gets a fork of it with limits on time
and memory. The fork is never asked for a verdict, only for *values*: tensors and gradients as JSON, which cannot carry
code. So whatever it prints, patches or writes into the socket, it gets points only for right answers.
In a fork nothing can be written to disk; an audit hook refuses processes, signals, sockets and deletion. That stops
every accident and what can be written in plain Python; it is no wall against an attacker who works at it, and it can
read what you can read: grade a class you do not trust in a container. macOS does not enforce the memory limit.
An answer that is an object (lesson 04: a network, its own parameters) cannot be sent. There the fork judges, and proves
with a token that it has; that stops a plain forgery, but not one by somebody who has read this file.
Nothing stops a learner from copying the published solution: that is a right answer.
"""

import dataclasses
import os
import re
import time
from functools import partial

import torch
from torch import nn

from replearn.lesson.exercises import check
from replearn.lesson.exercises import checker as trial
from replearn.lesson.exercises import limits as guard
from tools.classroom.grading.protocol import leaves, pack, receive, send, unpack


class Ended(guard.TimeUp):
    """The fork has not answered; `check` stops at it like at a function that never ends."""


class Proxy:
    """A learner's function that lives in a fork: call it, and take gradients through it, as if it were here."""

    def __init__(self, nursery, *, seconds, memory):
        self.nursery, self.seconds, self.sock = nursery, seconds, nursery.child(memory, 2 * seconds)
        self.complaint, self.known, self.ended = None, {}, False

    def close(self):
        """End the fork."""
        self.sock.close()
        if not self.ended:
            self.nursery.end()

    def ask(self, task, **content):
        """The fork's reply; an error that the learner's code raised is raised here."""
        if self.complaint:
            raise Ended
        try:
            self.sock.settimeout(self.seconds)
            send(self.sock, {task: content})
            reply = receive(self.sock, self.deadline)
            if "crash" in reply:
                name, text, line = map(str, reply["crash"])
        except TimeoutError:
            self.complaint = f"it does not come to an end: stopped after {self.seconds:g} seconds"
        except (EOFError, OSError):
            self.complaint, self.ended = self.nursery.end(), True
            if "SIGXCPU" in self.complaint:
                self.complaint = (
                    f"it does not come to an end: stopped after {2 * self.seconds:g} seconds"
                )
        except (ValueError, TypeError) as error:  # not JSON, or not one of our messages
            self.complaint = f"its process sent what is no answer ({error})"
        if self.complaint:
            raise Ended
        if "crash" in reply:
            text = ", ".join(part for part in (text, line and f"in the line `{line}`") if part)
            kind = type(re.sub(r"\W", "", name)[:40] or "Error", (Exception,), {})
            raise (NotImplementedError if name == "NotImplementedError" else kind)(text)
        return reply

    def grade(self, exercise, lesson, steps, expression):
        """(score, sentence) of the function that `expression` names after the statements `steps`."""
        seed = trial.GRADING_SEED
        self.deadline = time.monotonic() + self.seconds
        try:
            found = self.ask(
                "prepare",
                lesson=lesson,
                name=exercise.name,
                seed=seed,
                steps=steps,
                expression=expression,
            )
            if not found.get("callable"):
                return 0.0, f"✗ wrong: expected a function, found {found.get('kind')}"
            if self._answers_with_objects(exercise, seed):
                return self._verdict(seed)
            torch.manual_seed(seed)
            own = dataclasses.replace(
                exercise, cases=lambda generator: self._remember(exercise.cases(generator))
            )
            result = check(
                own, partial(self._call, 0), seed=seed
            )  # partial: has no line of its own
        except Exception as error:
            return 0.0, f"✗ wrong: the cell ends with {type(error).__name__} ({error})"
        except Ended:
            return 0.0, f"✗ wrong: {self.complaint}"
        return (
            (0.0, f"✗ wrong: {self.complaint}") if self.complaint else (result.score, result.text)
        )

    def _answers_with_objects(self, exercise, seed):
        """Is the right answer a network, or its own parameters? That is no value that could be sent."""
        torch.manual_seed(seed)
        cases = exercise.cases(torch.Generator().manual_seed(seed))
        answers = [exercise.solution(*trial._copy(arguments)) for arguments in cases.values()]
        return any(
            isinstance(leaf, (nn.Module, nn.Parameter))
            for leaf in leaves(answers, (torch.Tensor, nn.Module))
        )

    def _verdict(self, seed):
        """What the fork itself finds, with a token that proves that its own code has answered."""
        token = os.urandom(16).hex()
        reply = self.ask("verdict", token=token, seed=seed)
        if reply.get("token") != token:
            return 0.0, "✗ wrong: its process sent what is no answer"
        text = str(reply["text"])
        return 0.0 if "it does not come to an end" in text else min(
            max(float(reply["score"]), 0.0), 1.0
        ), text

    def _remember(self, cases, path=()):
        """Where in the cases every argument stands that cannot be sent, such as a function: the fork has its own."""
        items = cases.items() if isinstance(cases, dict) else enumerate(cases)
        for key, value in items:
            if isinstance(value, (dict, list, tuple)):
                self._remember(value, (*path, key))
            else:
                self.known[id(value)] = [*path, key]
        return cases

    def _call(self, which, *arguments):
        reply = self.ask(
            "call",
            which=which,
            arguments=pack(arguments, lambda value: {"given": self.known[id(value)]}),
        )
        inputs, flagged = [tensor for tensor in leaves(arguments) if tensor.requires_grad], []
        found = unpack(reply["found"], self._object, flagged)
        if reply["changed"]:
            _spoil(arguments)
        if flagged and inputs:
            return _swap(
                found,
                dict(zip(map(id, flagged), _Bridge.apply(self, flagged, *inputs), strict=True)),
            )
        for tensor in flagged:
            tensor.requires_grad_()
        return found

    def _object(self, kind, content):
        which, name, is_callable = content
        if kind == "object" and is_callable:
            return partial(self._call, which)
        return type(re.sub(r"\W", "", str(name))[:40] or "object", (), {})()


class _Bridge(torch.autograd.Function):
    """Carries gradients through a call in the fork."""

    @staticmethod
    def forward(ctx, proxy, found, *inputs):
        ctx.proxy = proxy
        return tuple(tensor.clone() for tensor in found)

    @staticmethod
    def backward(ctx, *weights):
        reply = ctx.proxy.ask("gradient", weights=[pack(weight, None) for weight in weights])
        return None, None, *(unpack(gradient, ctx.proxy._object) for gradient in reply["gradients"])


def _swap(value, table):
    if isinstance(value, (list, tuple)):
        return type(value)(_swap(item, table) for item in value)
    if isinstance(value, dict):
        return {key: _swap(item, table) for key, item in value.items()}
    return table.get(id(value), value)


def _spoil(arguments):
    """The fork's function has changed its arguments: change these, too, so that `check` finds out."""
    for tensor in leaves(arguments)[:1]:
        tensor.data = torch.full((*tensor.shape, 2), torch.nan)
