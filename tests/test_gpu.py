"""What only a GPU shows (marked `gpu`), and a dry run of `tests/gpu.sh` on whatever machine."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from replearn import augment, losses, metrics, models, probe
from replearn.data.cifar10 import CLASS_NAMES
from replearn.pretrain import SHAPES, pretrain
from replearn.pretrain.step import learn, make_views, new_run, seed_of, train_step, why_eager
from scripts import carry

ROOT = Path(__file__).resolve().parents[1]
TINY = replace(SHAPES, width=8, hidden=32, out=16, batch_size=32, epochs=4)

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def gpu_test(function):
    """Mark a test that a machine without a GPU skips."""
    return pytest.mark.gpu(needs_a_gpu(function))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_images(n=64):
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=seeded())


# --- with a GPU ---


@gpu_test
@pytest.mark.parametrize("blur", [0.0, 0.5])
def test_views_are_those_of_a_cpu(blur):
    images = make_images()
    expected = augment.two_views(images, blur=blur, generator=seeded(1))
    views = augment.two_views(images.cuda(), blur=blur, generator=seeded(1))
    for view, on_cpu in zip(views, expected, strict=True):
        assert (view.cpu() - on_cpu).abs().max() < 1e-5


@gpu_test
def test_views_and_losses_do_not_wait():
    """PyTorch itself says where it would wait for the GPU."""
    from replearn import _device

    images = make_images().cuda()
    findings = _device.Findings()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with _device.deferring(findings):
            first, second = augment.two_views(images, blur=0.5)
            losses.nt_xent(first.flatten(1), second.flatten(1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    findings.look()


@gpu_test
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_in_half_precision_are_those_in_float32(dtype):
    z1, z2 = torch.randn(2, 64, 32, device="cuda").to(dtype).unbind(0)
    for loss in (losses.nt_xent, losses.decoupled_contrastive):
        with torch.autocast("cuda", dtype=dtype):
            value = loss(z1, z2, temperature=0.1)
        assert value.item() == pytest.approx(loss(z1.float(), z2.float(), temperature=0.1).item())


GRAPHS = {
    "sgd": replace(TINY, optimizer="sgd", lr=0.05),
    "adamw": TINY,
    "multi-crop": replace(TINY, n_small=2, blur=0.5),
    "mean of weights": replace(TINY, average=0.9),
    "mean of four views": replace(TINY, n_views=4, mean_target=True),
    "BYOL": replace(TINY, loss="byol", predictor=16),
    "SimSiam": replace(TINY, loss="simsiam", predictor=16),
}


@gpu_test
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_makes_the_steps_that_single_launches_make(name, dtype):
    """Three steps, recorded and replayed, next to `learn` on the same views."""
    graph = new_run(GRAPHS[name], make_images(256).cuda(), dtype=dtype)
    eager = new_run(GRAPHS[name], make_images(256).cuda(), dtype=dtype)
    eager.not_recorded = "to compare"
    assert why_eager(graph) is None
    assert why_eager(eager) == "to compare"
    for run in (graph, eager):
        run.steps = 100
    for _ in range(3):
        expected = train_step(eager).item()
        assert train_step(graph).item() == pytest.approx(expected, rel=0.02, abs=0.02)
    graph.findings.look()
    assert graph.recorded is not None
    assert graph.not_recorded is None


@gpu_test
def test_steps_do_not_wait():
    run = new_run(TINY, make_images(256).cuda())
    run.steps = 1000
    for _ in range(40):  # the graph is recorded, two chunks of views are made
        train_step(run)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(40):
            train_step(run)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu_test
def test_views_ahead_are_those_of_their_steps():
    images = make_images(256).cuda()
    run = new_run(TINY, images)
    for step in range(40):
        views = run.ahead.at(step, 100)
        torch.manual_seed(seed_of(TINY.seed, step, 0))
        expected = make_views(TINY, run.batches.at(step))
        for view, alone in zip(views, expected, strict=True):
            assert (view - alone).abs().max() < 1e-5


@gpu_test
@pytest.mark.parametrize("name", ["sgd", "mean of weights"])
def test_a_resumed_run_ends_the_same_up_to_rounding(name, tmp_path):
    images = make_images(256)
    options = dict(log_every=4, checkpoint_seconds=0, device="cuda")
    whole = pretrain(GRAPHS[name], images, folder=tmp_path / "a", **options)

    class Stop(Exception):
        pass

    def stop(record, history):
        if len(history) == 3:
            raise Stop

    with pytest.raises(Stop):
        pretrain(GRAPHS[name], images, folder=tmp_path / "b", callback=stop, **options)
    resumed = pretrain(GRAPHS[name], images, folder=tmp_path / "b", **options)
    assert resumed.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], abs=0.02)


@gpu_test
def test_a_queue_goes_on_step_by_step(capfd):
    recipe = replace(TINY, queue=64)
    result = pretrain(recipe, make_images(256), device="cuda")
    assert len(result.history) > 0
    assert "not as a CUDA graph: MoCo's queue" in capfd.readouterr().err


@gpu_test
def test_measures_are_those_of_a_cpu():
    encoder = models.small_cnn(4).eval()
    images = make_images(300)
    y = torch.arange(300) % 3
    h = probe.extract_features(encoder, images)
    there = probe.extract_features(encoder.cuda(), images.cuda())
    assert (there.cpu() - h).abs().max() < 1e-2 * h.abs().max()
    there = h.cuda()
    assert probe.knn_accuracy(there, y.cuda(), there, y.cuda()) == pytest.approx(
        probe.knn_accuracy(h, y, h, y), abs=0.01
    )
    assert probe.linear_probe(there, y.cuda(), there, y.cuda()) == pytest.approx(
        probe.linear_probe(h, y, h, y), abs=0.01
    )
    assert float(metrics.linear_cka(there, there**2)) == pytest.approx(
        float(metrics.linear_cka(h, h**2)), abs=1e-3
    )
    on_gpu = metrics.cca_correlations(there[:, :8], there[:, 8:16], ridge=1e-3)
    on_cpu = metrics.cca_correlations(h[:, :8], h[:, 8:16], ridge=1e-3)
    assert (on_gpu.cpu() - on_cpu).abs().max() < 1e-3


# --- on any machine ---


def test_learn_is_the_body_of_a_step(one_silent_thread):
    """What a graph would record is what an eager step does."""
    run = new_run(TINY, make_images(64))
    views = make_views(TINY, run.batches.at(0))
    before = run.online[1][0].weight.detach().clone()
    loss, keys = learn(run, views)
    assert loss.ndim == 0
    assert [key.shape for key in keys] == [(32, 16)] * 2
    assert not torch.equal(run.online[1][0].weight, before)


def write_archive(folder, n=130):
    """A small CIFAR-10 in the form of our cache."""
    folder.mkdir(exist_ok=True)
    arrays = dict(images=make_images(n).numpy(), labels=np.arange(n) % 10)
    arrays["part"] = (np.arange(n) >= n - 30).astype(np.int64)
    np.savez(folder / "cifar10.npz", **arrays, names=CLASS_NAMES, key="")
    return arrays


def test_what_was_packed_comes_out_unchanged(tmp_path):
    arrays = write_archive(tmp_path / "data")
    manifest = carry.pack(tmp_path / "data" / "cifar10.npz", tmp_path / "one", tiles=60)
    assert [part["images"] for part in manifest["parts"]] == [60, 60, 10]
    second = tmp_path / "two"  # the parts come in two goes
    second.mkdir()
    last = manifest["parts"][-1]["name"]
    (tmp_path / "one" / last).rename(second / last)
    path = carry.unpack([tmp_path / "one", second], tmp_path / "there")
    with np.load(path) as stored:
        for name, array in arrays.items():
            np.testing.assert_array_equal(stored[name], array)
    written = path.stat().st_mtime_ns
    carry.unpack([tmp_path / "one", second], tmp_path / "there")
    assert path.stat().st_mtime_ns == written  # it was there already


def test_a_part_that_is_missing_or_damaged_is_told(tmp_path):
    write_archive(tmp_path / "data")
    carry.pack(tmp_path / "data" / "cifar10.npz", tmp_path / "parts", tiles=60)
    part = tmp_path / "parts" / "cifar10_00060.webp"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(ValueError, match=r"cifar10_00060\.webp: expected SHA-256"):
        carry.unpack([tmp_path / "parts"], tmp_path / "there")
    part.unlink()
    with pytest.raises(ValueError, match=r"cifar10_00060\.webp: expected in .*not found"):
        carry.unpack([tmp_path / "parts"], tmp_path / "there")
    assert not (tmp_path / "there" / "cifar10.npz").exists()


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """`gpu.sh --dry` with everything under a folder of its own; a function of its words."""
    folder = tmp_path_factory.mktemp("gpu")
    write_archive(folder / "data", 600)
    carry.pack(folder / "data" / "cifar10.npz", folder / "parts", tiles=300)
    results = folder / "results"
    results.mkdir()
    variables = {
        **os.environ,
        "PYTHON": sys.executable,
        "REPLEARN_RESULTS": str(results),
        "TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }

    def call(*words):
        options = ["--dry", "--minutes", "20", "--parts", str(folder / "parts")]
        command = ["bash", "tests/gpu.sh", *options, *words]
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout, results

    return call


def stored(results, name):
    return json.loads((results / f"{name}.json").read_text("utf-8"))


@pytest.mark.seconds
def test_a_dry_run_of_units_says_that_they_were_skipped(dry_run):
    printed, results = dry_run("units")
    record = stored(results, "gpu_units")
    assert record["counts"].get("passed", 0) == 0
    assert record["counts"]["skipped"] > 10
    assert any("needs a CUDA GPU" in reason for reason in record["reasons"])
    assert record["key"]["dry"] is True
    printed, _ = dry_run("units")
    assert "has a record" in printed


@pytest.mark.seconds
def test_a_dry_run_of_throughput_times_everyone(dry_run):
    _, results = dry_run("throughput")
    assert stored(results, "gpu_throughput")["ok"]
    record = stored(results, "gpu_dry")
    assert record["dry"] is True
    titles = [panel["title"] for panel in record["panels"]]
    assert len(titles) == 5
    assert record["panels"][1]["why_eager"] == "a cpu has no CUDA graphs"
    for panel in record["panels"]:
        assert panel["curves"]["replearn"][0]["median_s"] > 0
    assert not (results / "gpu.json").exists()  # nothing that could be quoted


@pytest.mark.seconds
def test_a_dry_run_of_a_lesson_and_a_recipe(dry_run):
    _, results = dry_run("lessons", "03")
    assert stored(results, "gpu_lesson_03")["ok"]
    _, results = dry_run("recipe", "course")
    assert stored(results, "gpu_recipe_course")["ok"]
    (path,) = (results / "recipes").glob("*course_0.json")
    assert json.loads(path.read_text("utf-8"))["pictures"] == 128


def test_without_a_gpu_only_a_dry_run_runs(monkeypatch):
    from scripts import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA GPU here; --dry"):
        gpu.main(["units"])
    with pytest.raises(SystemExit, match="no lesson 13"):
        gpu.main(["--dry", "lessons", "13"])


def test_after_the_time_nothing_is_begun(monkeypatch, tmp_path, capsys):
    from scripts import gpu

    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    assert gpu.main(["--dry", "--minutes", "0", "lessons", "01", "02"]) == 1
    assert capsys.readouterr().out.count("not begun, the time is over") == 2
    assert list(tmp_path.iterdir()) == []
