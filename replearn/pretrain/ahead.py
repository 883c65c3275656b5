"""What keeps a GPU busy: views of several steps at once, and a step as one CUDA graph.

A GPU that has to be told each convolution by itself waits for the processor. So the views of some
steps are made in one go, on a stream of their own, while the steps before them run; and a step's
forward pass, loss, backward pass and optimizer are recorded once and then replayed by one call.

Both change nothing but the time: a step's random numbers are seeded by its number, whether its
views are made alone or together with others, and a graph does what was recorded. On a CPU, and on
devices that have no streams, there is neither.
"""

from collections.abc import Callable

import torch

Views = list[torch.Tensor]

MOST_STEPS = 16  # whose views are made at once
MOST_BYTES = 2**27  # of views that are made at once: 128 MiB
WARM_UP = 3  # steps before a graph is recorded: libraries choose their kernels in the first ones


def has_streams(device: torch.device) -> bool:
    """Return whether work can be handed over in several streams, and be recorded as a graph.

    Args:
        device: Any device.

    Returns:
        True for a CUDA device of this machine.

    Example:
        >>> has_streams(torch.device("cpu"))
        False
    """
    return device.type == "cuda" and torch.cuda.is_available()


def steps_at_once(views: Views) -> int:
    """Return for how many steps views should be made at once.

    Args:
        views: Those of one step.

    Returns:
        1 to 16, the fewer the larger they are.

    Example:
        >>> steps_at_once([torch.zeros(128, 3, 32, 32)] * 2)
        16
    """
    size = sum(view.numel() * view.element_size() for view in views)
    return max(1, min(MOST_STEPS, MOST_BYTES // size))


class ViewsAhead:
    """Gives the views of each step, made some steps ahead.

    Args:
        make: Takes a first step and a number of steps; returns the views of each.
        device: Where they are made.

    Example:
        >>> def make(first, count):
        ...     return [[torch.full((1,), step)] for step in range(first, first + count)]
        >>> ahead = ViewsAhead(make, torch.device("cpu"))
        >>> ahead.at(7, 100), ahead.at(8, 100)
        ([tensor([7])], [tensor([8])])
    """

    def __init__(self, make: Callable[[int, int], list[Views]], device: torch.device) -> None:
        self._make = make
        self._device = device
        self._count = 1  # until the size of a step's views is known
        self._first = 0  # step of the first views in `_ready`
        self._ready: list[Views] = []
        self._next: tuple[int, list[Views], torch.cuda.Event | None] | None = None
        self._side = torch.cuda.Stream(device) if has_streams(device) else None
        self._replayed: list[torch.cuda.Event] = []  # ends of the chunks that are not done yet

    def at(self, step: int, end: int) -> Views:
        """Return the views of a step.

        Args:
            step: The step.
            end: The step after the last one, behind which no views are made.

        Returns:
            The views, in the stream that is current.
        """
        if not self._first <= step < self._first + len(self._ready):
            self._turn_over(step, end)
        return self._ready[step - self._first]

    def _turn_over(self, step: int, end: int) -> None:
        """Take the chunk that begins at a step, and begin with the one after it."""
        if self._next is None or self._next[0] != step:  # the first one, or a jump
            self._next = self._started(step, end)
        self._first, self._ready, is_made = self._next
        if is_made is not None:
            main = torch.cuda.current_stream(self._device)
            main.wait_event(is_made)  # the stream waits, the program does not
            for views in self._ready:
                for view in views:
                    view.record_stream(main)
            self._keep_pace(main)
        self._count = steps_at_once(self._ready[0]) if self._side is not None else 1
        after = self._first + len(self._ready)
        self._next = None
        if self._side is not None and after < end:
            self._next = self._started(after, end)

    def _started(self, first: int, end: int) -> tuple[int, list[Views], torch.cuda.Event | None]:
        count = max(1, min(self._count, end - first))
        if self._side is None:
            return first, self._make(first, count), None
        # Images and weights of this moment are ready for the other stream too.
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            views = self._make(first, count)
            is_made = torch.cuda.Event()
            is_made.record(self._side)
        return first, views, is_made

    def _keep_pace(self, main: "torch.cuda.Stream") -> None:
        """Let the program be two chunks ahead of the GPU at most, or views would fill its memory.

        The GPU has two chunks of work left then, so that it never runs dry by this.
        """
        reached = torch.cuda.Event()
        reached.record(main)
        self._replayed.append(reached)
        if len(self._replayed) > 2:
            self._replayed.pop(0).synchronize()


class Recorded:
    """A step that is recorded as a CUDA graph at its first call, and replayed ever after.

    Args:
        body: Takes views, trains on them in place, and returns the loss. What else it needs, such
            as the learning rate, it has to read from tensors that stay where they are.
        tensors: Returns all tensors that the body changes, by name: they are put back after the
            warm-up.
        views: Those of one step, for their shapes.

    Raises:
        RuntimeError: The body cannot be recorded, since it waits for the device, say. All tensors
            are as before.
    """

    def __init__(
        self,
        body: Callable[[Views], torch.Tensor],
        tensors: Callable[[], dict[str, torch.Tensor]],
        views: Views,
    ) -> None:
        self._views = [torch.empty_like(view).copy_(view) for view in views]
        before = {name: x.clone() for name, x in tensors().items()}
        device = views[0].device
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    body(self._views)
            torch.cuda.current_stream(device).wait_stream(side)
            torch.cuda.synchronize(device)
            with torch.cuda.graph(self._graph):
                self._loss = body(self._views)
        finally:
            put_back(tensors(), before)

    def __call__(self, views: Views) -> torch.Tensor:
        """Make the step on other views of the same shapes; return the loss, a new tensor."""
        for own, given in zip(self._views, views, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._loss.clone()


@torch.no_grad()
def put_back(tensors: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> None:
    """Give tensors the values that they had before, where they are.

    Args:
        tensors: Those of now, by name; one that was not there before becomes 0, as an optimizer's
            moments are at their start.
        before: Their values.

    Example:
        >>> x = torch.ones(2)
        >>> put_back({"x": x, "new": x[1:]}, {"x": torch.full((2,), 7.0)})
        >>> x
        tensor([7., 0.])
    """
    for name, x in tensors.items():
        if name in before:
            x.copy_(before[name])
        else:
            x.zero_()
