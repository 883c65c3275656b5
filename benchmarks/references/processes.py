"""The gradient of a joint batch, computed by two processes (gloo), against one process."""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

SEEDS = range(5)


def gradient(seed, part):
    """The gradients of NT-Xent, decoupled contrastive and MoCo for this process's `part` of a batch of 12 pictures."""
    from replearn.pretrain import distributed
    from replearn.pretrain import step as engine
    from replearn.pretrain.recipe import SHAPES

    views, queue = normal_float(seed, 2, 12, 3, 8, 8), normal_float(seed, 32, 8)
    found = []
    for recipe in (
        SHAPES,
        replace(SHAPES, loss="decoupled_contrastive"),
        replace(SHAPES, queue=32),
    ):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 8))
        keys = (
            dict(target=nn.Sequential(nn.Flatten(), nn.Linear(192, 8)), queue=queue)
            if recipe.queue
            else {}
        )
        engine.contrast(recipe, net, [v[part] for v in views], **keys)[0].backward()
        distributed.sum_gradients(net.parameters())
        found += [p.grad.flatten() for p in net.parameters()]
    return torch.cat(found)


def normal_float(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def work(rank, folder):
    """One of two processes: the gradients of the joint batch, then those of its own half alone."""
    torch.set_num_threads(1)
    meet, half = Path(folder, "meet").as_uri(), slice(6 * rank, 6 * rank + 6)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    joint = [gradient(seed, half) for seed in SEEDS]
    dist.barrier()
    dist.destroy_process_group()
    torch.save((joint, [gradient(seed, half) for seed in SEEDS]), Path(folder, f"{rank}.pt"))


@functools.cache
def two_processes():
    """[(joint of process 0, of process 1)], [mean of both halves alone], one a seed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        torch.multiprocessing.spawn(work, (folder,), nprocs=2)
        (joint_0, alone_0), (joint_1, alone_1) = (
            torch.load(Path(folder, f"{rank}.pt")) for rank in range(2)
        )
    return (
        list(zip(joint_0, joint_1, strict=True)),
        [(a + b) / 2 for a, b in zip(alone_0, alone_1, strict=True)],
    )


def ddp(seed):
    joint, halves = two_processes()
    one = gradient(seed, slice(None))
    return torch.cat(joint[seed]), torch.cat([one, one]), torch.cat([halves[seed]] * 2)


ROWS = [
    dict(
        check=ddp,
        quantity="gradients of two processes: NT-Xent, decoupled, MoCo",
        lesson="12",
        slow=True,
        fault="each process its own negatives",
        allowed=1e-5,
        reference="one process with the joint batch",
    ),
]
