"""Many views of an image, their mean as a target, BYOL and SimSiam: each next to plain loops."""

import re
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from replearn import augment, losses, models
from replearn.__main__ import main
from replearn.data import shapes
from replearn.pretrain import COURSE, SHAPES, checkpoint, pretrain
from replearn.pretrain.recipe import from_json, networks, to_json
from replearn.pretrain.state import tensors_of
from replearn.pretrain.step import LOSSES, contrast, make_views, new_run, seed_of, train_step
from replearn.train import cosine, ema_update

TINY = replace(SHAPES, width=4, hidden=16, out=8, batch_size=16, epochs=2, warmup=0.25)
NEW_FIELDS = ("n_views", "mean_target", "predictor")
FORMS = {
    "pairs of three views": dict(n_views=3, n_small=1),
    "mean of four views": dict(n_views=4, mean_target=True, loss="decoupled_contrastive"),
    "moco, mean of three views": dict(n_views=3, mean_target=True, queue=100),
    "byol": dict(loss="byol", predictor=12, momentum=0.9),
    "byol, sgd, average": dict(loss="byol", predictor=12, optimizer="sgd", lr=0.1, average=0.9),
    "simsiam": dict(loss="simsiam", predictor=12),
    "fastsiam": dict(loss="simsiam", predictor=12, n_views=4, mean_target=True),
}

pytestmark = pytest.mark.usefixtures("one_silent_thread")


class Stop(Exception):
    """What a person does who stops a run."""


def random_images(n=64):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)


def flat_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8))


def random_views(large, small=0):
    generator = torch.Generator().manual_seed(1)
    sides = [32] * large + [16] * small
    return [torch.rand((6, 3, side, side), generator=generator) for side in sides]


def gradient_of(loss, network):
    return torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)


def mean_direction(z):
    """The mean of several views' z, each of length 1, image by image."""
    rows = []
    for image in range(len(z[0])):
        total = torch.zeros(z[0].shape[1])
        for view in z:
            total = total + view[image] / view[image].norm()
        rows.append(total / len(z))
    return torch.stack(rows)


# Many views


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("large", "small"), [(2, 0), (4, 0), (8, 0), (3, 2)])
def test_pairs_are_a_loop_over_all_pairs_of_views(name, large, small):
    net = flat_net()
    views = random_views(large, small)
    z = [net(view) for view in views]
    terms = []
    for i in range(large):
        for j in range(large):
            if i < j:
                terms.append(LOSSES[name](z[i], z[j], temperature=0.3))
    for s in range(large, large + small):
        for j in range(large):
            terms.append(LOSSES[name](z[s], z[j], temperature=0.3))
    recipe = replace(TINY, loss=name, temperature=0.3, n_views=large, n_small=small)
    loss, keys = contrast(recipe, net, views)
    torch.testing.assert_close(loss, sum(terms) / len(terms))
    torch.testing.assert_close(gradient_of(loss, net), gradient_of(sum(terms) / len(terms), net))
    assert len(keys) == large


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("large", "small"), [(3, 0), (4, 0), (8, 0), (4, 1)])
def test_the_mean_target_is_the_mean_of_the_other_views(name, large, small):
    net = flat_net()
    views = random_views(large, small)
    z = [net(view) for view in views]
    terms = []
    for i, query in enumerate(z):
        others = [z[j] for j in range(large) if j != i]
        terms.append(LOSSES[name](query, mean_direction(others), temperature=0.3))
    expected = sum(terms) / (large + small)
    fields = dict(temperature=0.3, n_views=large, n_small=small, mean_target=True)
    recipe = replace(TINY, loss=name, **fields)
    loss, _ = contrast(recipe, net, views)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient_of(loss, net), gradient_of(expected, net))
    # A view that is long for all images weighs no more than the others.
    longer = nn.Sequential(flat_net(), nn.Identity())
    scales = torch.tensor([1.0, 100.0] + [1.0] * (large - 2)).repeat_interleave(6)[:, None]
    longer[1].forward = lambda z: z * scales if len(z) == len(scales) else z
    torch.testing.assert_close(contrast(recipe, longer, views)[0], expected)


def test_moco_with_many_views_is_a_loop():
    net = flat_net()
    target = flat_net(seed=1)
    queue = torch.randn(32, 8)
    views = random_views(3)
    z = [net(view) for view in views]
    k = [target(view) for view in views]
    pairs = []
    means = []
    for i in range(3):
        others = [k[j] for j in range(3) if j != i]
        means.append(losses.moco(z[i], mean_direction(others), queue, temperature=0.2))
        for key in others:
            pairs.append(losses.moco(z[i], key, queue, temperature=0.2))
    for mean_target, terms in ((False, pairs), (True, means)):
        recipe = replace(TINY, n_views=3, mean_target=mean_target, queue=32)
        loss, keys = contrast(recipe, net, views, target=target, queue=queue)
        torch.testing.assert_close(loss, sum(terms) / len(terms))
        torch.testing.assert_close(torch.cat(keys), torch.cat(k))


@pytest.mark.parametrize("n_views", [2, 3, 4, 8])
def test_the_first_views_do_not_depend_on_how_many_there_are(n_views):
    images = random_images(4)
    torch.manual_seed(5)
    two = make_views(TINY, images)
    torch.manual_seed(5)
    views = make_views(replace(TINY, n_views=n_views, n_small=3), images)
    assert [view.shape[2] for view in views] == [32] * n_views + [16] * 3
    assert torch.equal(views[0], two[0])
    assert torch.equal(views[1], two[1])
    for i in range(n_views):
        for j in range(i):
            assert not torch.equal(views[i], views[j])


def test_the_mean_is_made_in_float32_under_autocast():
    net = flat_net()
    views = random_views(4)
    recipe = replace(TINY, n_views=4, mean_target=True, temperature=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, keys = contrast(recipe, net, views)
    assert keys[0].dtype == torch.bfloat16
    z = [key.float() for key in keys]
    terms = []
    for i in range(4):
        others = [z[j] for j in range(4) if j != i]
        terms.append(losses.nt_xent(z[i], mean_direction(others), temperature=0.05))
    torch.testing.assert_close(loss, sum(terms) / 4, rtol=1e-5, atol=1e-5)


# BYOL and SimSiam


def weights_of(network):
    return {name: x.detach().clone() for name, x in network.state_dict().items()}


def assert_same(network, expected):
    for name, x in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], x), name


def written_out(recipe, images, steps, of_steps, loss_of):
    """Make steps by hand; loss_of gets online, target and predictor, and the joined views."""
    torch.manual_seed(recipe.seed)
    online = nn.Sequential(*networks(recipe))
    online = online.to(memory_format=torch.channels_last).train()
    predictor = None
    parameters = list(online.parameters())
    if recipe.predictor:
        predictor = models.projector(8, hidden=recipe.predictor, out_dim=8)
        parameters += predictor.parameters()
    target = deepcopy(online)
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    batches = new_run(recipe, images).batches
    fields = ("crop", "jitter", "grayscale", "blur", "flip")
    options = {name: getattr(recipe, name) for name in fields}
    for step in range(steps):
        torch.manual_seed(seed_of(recipe.seed, step, 0))
        views = []
        for _ in range(0, recipe.n_views, 2):
            views += augment.two_views(batches.at(step), **options)
        x = torch.cat(views).contiguous(memory_format=torch.channels_last)
        lr = recipe.lr * cosine(step, of_steps, warmup=round(recipe.warmup * of_steps))
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss_of(online, target, predictor, x).backward()
        optimizer.step()
        ema_update(target, online, momentum=recipe.momentum)
    return online, target, predictor


def simclr_loss(online, target, predictor, x):
    z1, z2 = online(x).chunk(2)
    return losses.nt_xent(z1, z2, temperature=TINY.temperature)


def simsiam_loss(online, target, predictor, x):
    z = online(x)
    p1, p2 = predictor(z).chunk(2)
    z1, z2 = z.detach().chunk(2)
    return (losses.negative_cosine(p1, z2) + losses.negative_cosine(p2, z1)) / 2


def byol_loss(online, target, predictor, x):
    p1, p2 = predictor(online(x)).chunk(2)
    with torch.no_grad():
        t1, t2 = target(x).chunk(2)
    return (losses.negative_cosine(p1, t2) + losses.negative_cosine(p2, t1)) / 2


def fastsiam_loss(online, target, predictor, x):
    z = online(x)
    p = predictor(z).chunk(4)
    direction = F.normalize(z.detach(), dim=1).chunk(4)
    terms = []
    for i in range(4):
        others = [direction[j] for j in range(4) if j != i]
        terms.append(losses.negative_cosine(p[i], sum(others) / 3))
    return sum(terms) / 4


WRITTEN_OUT = {
    "as before": ({}, simclr_loss),
    "byol": (FORMS["byol"], byol_loss),
    "simsiam": (FORMS["simsiam"], simsiam_loss),
    "fastsiam": (FORMS["fastsiam"], fastsiam_loss),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_three_steps_are_the_steps_written_out(name):
    changes, loss_of = WRITTEN_OUT[name]
    recipe = replace(TINY, **changes)
    images = random_images()
    online, target, predictor = written_out(recipe, images, 3, 8, loss_of)
    run = new_run(recipe, images)
    run.steps = 8
    for _ in range(3):
        train_step(run)
    assert_same(run.online, online)
    assert (run.predictor is None) == (predictor is None)
    if predictor is not None:
        assert_same(run.predictor, predictor)
    assert (run.target is not None) == (name == "byol")
    if run.target is not None:
        assert_same(run.target, target)


def test_multi_crop_and_moco_are_what_they_were():
    """The loss and the views as they were written before there were more than two large views."""
    recipe = replace(TINY, n_small=3, blur=0.5)
    images = random_images(8)
    torch.manual_seed(3)
    small = dict(n_small=3, small_size=16, small_crop=(0.05, 0.14))
    large = dict(crop=recipe.crop, jitter=recipe.jitter, grayscale=0.2, blur=0.5, flip=0.5)
    expected = augment.multi_crop(images, **small, **large)
    torch.manual_seed(3)
    views = make_views(recipe, images)
    assert len(views) == 5
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(views, expected, strict=True))

    net = flat_net()
    target = flat_net(seed=1)
    queue = torch.randn(32, 8)
    z = [*net(torch.cat(views[:2])).chunk(2), *net(torch.cat(views[2:])).chunk(3)]
    for moco in ({}, dict(target=target, queue=queue)):
        keys = target(torch.cat(views[:2])).chunk(2) if moco else z[:2]
        pairs = [(z[0], keys[1]), (z[1], keys[0])] if moco else [(z[0], z[1])]
        for query in z[2:]:
            pairs += [(query, key) for key in keys]
        terms = []
        for query, key in pairs:
            if moco:
                terms.append(losses.moco(query, key, queue, temperature=recipe.temperature))
            else:
                terms.append(losses.nt_xent(query, key, temperature=recipe.temperature))
        loss, _ = contrast(recipe, net, views, **moco)
        assert torch.equal(loss, sum(terms) / len(terms))


@pytest.mark.parametrize("mean_target", [False, True])
@pytest.mark.parametrize("loss", ["byol", "simsiam"])
def test_the_target_gets_no_gradient(loss, mean_target):
    net = flat_net()
    target = flat_net(seed=1) if loss == "byol" else None
    predictor = nn.Linear(8, 8)
    views = random_views(3, 1)
    recipe = replace(TINY, loss=loss, predictor=8, n_views=3, mean_target=mean_target)
    value, keys = contrast(recipe, net, views, predictor=predictor, target=target)
    assert not any(key.requires_grad for key in keys)
    value.backward()
    if target is not None:
        assert all(weight.grad is None for weight in target.parameters())
    # The gradient is that toward constants.
    constants = [(target or net)(view).detach() for view in views[:3]]
    p = [predictor(net(view)) for view in views]
    terms = []
    for i in range(4):
        others = [constants[j] for j in range(3) if j != i]
        if mean_target:
            others = [mean_direction(others)]
        for other in others:
            terms.append(-(F.normalize(p[i]) * F.normalize(other)).sum(1).mean())
    expected = sum(terms) / len(terms)
    torch.testing.assert_close(value, expected)
    for network in (net, predictor):
        found = tuple(weight.grad for weight in network.parameters())
        torch.testing.assert_close(found, gradient_of(expected, network))
        assert found[0].abs().sum() > 0


def test_a_projector_before_a_predictor_ends_in_batch_normalization():
    _, projector = networks(replace(TINY, loss="simsiam", predictor=12))
    z = projector(torch.rand(64, 64))
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(8), rtol=1e-2, atol=1e-2)
    _, usual = networks(TINY)
    assert isinstance(usual[-1], nn.Linear)


@pytest.mark.parametrize("loss", ["byol", "simsiam"])
def test_training_lowers_the_loss_and_does_not_collapse(loss):
    fields = dict(loss=loss, predictor=16, momentum=0.9, width=8, hidden=32, batch_size=64)
    recipe = replace(TINY, epochs=15, lr=1e-2, **fields)
    history = pretrain(
        recipe, shapes.render(256, seed=0).images, device="cpu", log_every=10
    ).history
    assert history[-1]["loss"] < history[0]["loss"] - 0.15
    assert history[-1]["effective_rank"] > 3  # of 8


# Checkpoints


def stop_at(step):
    def callback(record, history):
        if record["step"] == step:
            raise Stop

    return callback


def run(recipe, **options):
    defaults = dict(device="cpu", log_every=1, checkpoint_seconds=0)
    return pretrain(recipe, random_images(), **defaults | options)


@pytest.mark.parametrize("form", FORMS)
def test_a_stopped_run_ends_with_the_same_bits(tmp_path, form):
    recipe = replace(TINY, **FORMS[form])
    whole = run(recipe, folder=tmp_path / "whole")
    for step in (3, 6):
        with pytest.raises(Stop):
            run(recipe, folder=tmp_path / "stopped", callback=stop_at(step))
    resumed = run(recipe, folder=tmp_path / "stopped")
    assert [record["loss"] for record in resumed.history] == [
        record["loss"] for record in whole.history
    ]
    expected, _ = checkpoint.load(tmp_path / "whole")
    found, _ = checkpoint.load(tmp_path / "stopped")
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert torch.equal(found[name], x), name
    has_predictor = any(name.startswith("predictor.") for name in found)
    assert has_predictor == bool(recipe.predictor)


def test_the_predictor_and_its_moments_are_saved(tmp_path):
    recipe = replace(TINY, **FORMS["byol"])
    run(recipe, folder=tmp_path)
    tensors, about = checkpoint.load(tmp_path)
    fresh = new_run(recipe, random_images())
    assert not torch.equal(tensors["predictor.0.weight"], fresh.predictor[0].weight)
    last = len(fresh.trained) - 1
    assert tensors[f"optimizer.{last}.exp_avg"].shape == fresh.predictor[-1].bias.shape
    for name in ("predictor.0.weight", f"optimizer.{last}.exp_avg", "target.0.block1.0.weight"):
        damaged = {key: x for key, x in tensors.items() if key != name}
        checkpoint.save(tmp_path, damaged, about)
        with pytest.raises(ValueError, match=f"expected a tensor .{re.escape(name)}., found none"):
            run(replace(recipe, epochs=3), folder=tmp_path)


@pytest.mark.parametrize("changes", [{}, dict(queue=48, n_small=2), dict(average=0.9)])
def test_a_checkpoint_from_before_the_new_fields_goes_on(tmp_path, changes):
    recipe = replace(TINY, **changes)
    whole = run(recipe, folder=tmp_path / "whole")
    with pytest.raises(Stop):
        run(recipe, folder=tmp_path / "old", callback=stop_at(4))
    tensors, about = checkpoint.load(tmp_path / "old")
    for name in NEW_FIELDS:
        del about["recipe"][name]
    checkpoint.save(tmp_path / "old", tensors, about)
    resumed = run(recipe, folder=tmp_path / "old")
    for name, x in whole.encoder.state_dict().items():
        assert torch.equal(resumed.encoder.state_dict()[name], x), name
    assert not any(name.startswith("predictor") for name in tensors)
    assert not any(name.startswith("predictor") for name in tensors_of(new_run(recipe, images())))


def images():
    return random_images(16)


def test_another_number_of_views_is_another_recipe(tmp_path):
    run(TINY, folder=tmp_path)
    with pytest.raises(ValueError, match="another recipe: n_views was 2, is now 4"):
        run(replace(TINY, n_views=4), folder=tmp_path)
    with pytest.raises(
        ValueError, match="loss was 'nt_xent', is now 'byol'; predictor was 0, is now 8"
    ):
        run(replace(TINY, loss="byol", predictor=8), folder=tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            dict(loss="byol"),
            "recipe: predictor: expected 1 or more with loss byol, which collapses without a "
            "predictor, found 0; 512 fits the other default widths",
        ),
        (
            dict(loss="simsiam"),
            "recipe: predictor: expected 1 or more with loss simsiam, which collapses without a "
            "predictor, found 0; 512 fits the other default widths",
        ),
        (
            dict(predictor=64),
            "recipe: predictor: expected 0 with loss decoupled_contrastive, found 64; set it to "
            "0, or choose loss byol or simsiam",
        ),
        (
            dict(mean_target=True),
            "recipe: mean_target: expected n_views of 3 or more, since of 2 views the other one "
            "is the mean already, found 2; raise n_views, or leave mean_target off",
        ),
        (
            dict(loss="byol", predictor=64, queue=64),
            "recipe: a queue brings a loss of its own: expected loss nt_xent, found byol",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(changes, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        replace(COURSE, **changes)


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_survive_json(form):
    recipe = replace(TINY, **FORMS[form])
    assert from_json(to_json(recipe)) == recipe


def test_the_command_knows_the_fields(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    text = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in text for name in NEW_FIELDS)
    words = "pretrain --recipe shapes --size 32 --test-size 20 --width 4 --hidden 16 --out 8"
    words += " --batch-size 16 --epochs 1 --log-every 1 --device cpu --loss simsiam --predictor 8"
    words += f" --n-views 3 --mean-target --folder {tmp_path}"
    main(words.split())
    assert re.search(r"loss, minus a cosine +-?0\.\d\d ", capsys.readouterr().out)
    assert models.card(tmp_path)["recipe"]["n_views"] == 3
