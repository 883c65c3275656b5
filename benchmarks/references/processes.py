"""The gradient of a joint batch, computed by two processes (gloo), against one process."""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from references import Compared, Row
from torch import nn

SEEDS = range(5)
BATCH_SIZE = 12  # of both processes together
QUEUE = 32


def normal_float(seed: int, *shape: int) -> torch.Tensor:
    """Return standard normal float32 numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradient(seed: int, part: slice) -> torch.Tensor:
    """Return the gradients of three losses for this process's part of a batch, as one vector.

    The losses are NT-Xent, the decoupled contrastive loss and MoCo's.
    """
    from replearn.pretrain import distributed
    from replearn.pretrain import step as engine
    from replearn.pretrain.recipe import SHAPES

    views = normal_float(seed, 2, BATCH_SIZE, 3, 8, 8)
    queue = normal_float(seed, QUEUE, 8)
    recipes = [SHAPES, replace(SHAPES, loss="decoupled_contrastive"), replace(SHAPES, queue=QUEUE)]
    gradients = []
    for recipe in recipes:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 8))
        keys = {}
        if recipe.queue:
            keys = {"target": nn.Sequential(nn.Flatten(), nn.Linear(192, 8)), "queue": queue}
        loss, _ = engine.contrast(recipe, net, [view[part] for view in views], **keys)
        loss.backward()
        distributed.sum_gradients(net.parameters())
        gradients += [parameter.grad.flatten() for parameter in net.parameters()]
    return torch.cat(gradients)


def work(rank: int, folder: str) -> None:
    """One of two processes: the gradients of the joint batch, then those of its half alone."""
    torch.set_num_threads(1)
    meeting_point = Path(folder, "meet").as_uri()
    share = BATCH_SIZE // 2
    half = slice(share * rank, share * (rank + 1))
    dist.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=2)
    joint = [gradient(seed, half) for seed in SEEDS]
    dist.barrier()
    dist.destroy_process_group()
    alone = [gradient(seed, half) for seed in SEEDS]
    torch.save((joint, alone), Path(folder, f"{rank}.pt"))


@functools.cache
def two_processes() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return two vectors a seed: the joint gradients of both processes, one after the other, and
    the mean of what each finds alone."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        torch.multiprocessing.spawn(work, (folder,), nprocs=2)
        joint_0, alone_0 = torch.load(Path(folder, "0.pt"))
        joint_1, alone_1 = torch.load(Path(folder, "1.pt"))
    return [
        (torch.cat([joint_0[seed], joint_1[seed]]), (alone_0[seed] + alone_1[seed]) / 2)
        for seed in SEEDS
    ]


def two_processes_against_one(seed: int) -> Compared:
    """Each process of two must have the gradient that one process has with the joint batch."""
    joint, mean_of_halves = two_processes()[seed]
    one = gradient(seed, slice(None))
    return Compared(joint, torch.cat([one, one]), torch.cat([mean_of_halves, mean_of_halves]))


ROWS = [
    Row(
        quantity="gradients of two processes: NT-Xent, decoupled, MoCo",
        lesson="12",
        check=two_processes_against_one,
        reference="one process with the joint batch",
        allowed=1e-5,
        fault="each process its own negatives",
        slow=True,
    ),
]
