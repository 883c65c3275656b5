"""The estimate of a lesson's time on a T4: what is counted, what a shortened training leaves."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from replearn import train
from replearn.pretrain import SHAPES, loop, pretrain
from scripts import t4_lessons
from scripts.gpu import code_of_lesson
from scripts.t4_lessons import LAUNCH_SECONDS, STEPS, T4, Account, short_fit, short_train_step

IMAGES = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8)


def test_a_small_operation_costs_its_launch_and_a_large_one_its_arithmetic():
    small, large = torch.ones(4, 4), torch.ones(4096, 4096)
    with T4() as t4:
        small @ small
        small.view(2, 8)  # launches nothing
    assert t4.launches == 1
    assert t4.seconds == LAUNCH_SECONDS
    assert t4.flops == 2 * 4**3
    with T4() as t4:
        large @ large
    assert t4.seconds == pytest.approx(2 * 4096**3 / t4_lessons.FLOPS)


def test_a_shortened_training_leaves_what_the_cells_after_it_need():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1))
    seen = []

    def after_step(step):
        seen.append(step)
        return {"step": step}

    def made(steps):
        calls.append(steps)
        return model

    calls = []
    account = Account()
    fit = short_fit(train.fit, account)
    history = fit(
        lambda x: made(x)(x).square().mean(),
        [model],
        IMAGES,
        steps=20,
        batch_size=8,
        after_step=after_step,
    )
    assert len(calls) == STEPS
    assert seen == list(range(20))
    assert history["step"] == list(range(20))
    assert len(history["loss"]) == 20
    (training,) = account.trainings
    assert training["steps"] == 20
    assert training["launches_a_step"] > 10
    assert training["seconds"] >= 20 * training["launches_a_step"] * LAUNCH_SECONDS * 0.999


def test_the_engine_makes_the_first_steps_only(monkeypatch):
    account = Account()
    real, calls = loop.train_step, []

    def counted(run):
        calls.append(run.step)
        return real(run)

    monkeypatch.setattr(loop, "train_step", short_train_step(counted, account))
    recipe = replace(SHAPES, width=4, batch_size=8, epochs=3)
    result = pretrain(recipe, IMAGES, device="cpu", log_every=4, knn_every=0)
    assert calls == list(range(STEPS))
    assert result.history[-1]["step"] == 12
    assert account.trainings[0]["steps"] == 12


def test_the_code_of_the_shelf_is_found():
    assert 'Lesson("F2")' in code_of_lesson("F2")


def test_a_lesson_that_does_not_exist_is_named():
    with pytest.raises(SystemExit, match="no lesson 13; there are 01, 02"):
        t4_lessons.main(["13"])
