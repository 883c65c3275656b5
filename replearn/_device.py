"""What the core knows of devices: which there are, how to reach one, and how not to wait for one.

A GPU works behind the program's back: the program hands over work and goes on. Whoever asks for a
value (`.item()`, `if tensor:`) or sends memory that the system may move has to wait until all work
handed over before is done. In a training step that costs more than the step. So numbers are sent by
`send`, and checks of values are put off by `deferring`: their findings stay on the device until
somebody looks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

# Kinds of devices with what a CUDA device has: pinned memory, fused optimizers.
LIKE_CUDA = {"cuda"}
WITHOUT_FLOAT64 = {"mps"}


def named(device: str | torch.device | None = None) -> torch.device:
    """Return a device of this machine by its name.

    Args:
        device: Such as "cpu", "cuda", "cuda:1" or "mps"; None for a GPU if there is one.

    Returns:
        The device.

    Raises:
        ValueError: This machine has no such device, with those that it has.

    Example:
        >>> named("cpu")
        device(type='cpu')
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).cpu()  # the device "meta" exists and computes nothing
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"device: expected one of this machine ({', '.join(available())}), found "
            f"{str(device)!r}; leave it out for the best there is"
        ) from error
    return found


def available() -> list[str]:
    """Return the names of this machine's devices.

    Returns:
        The names, the CPU first.

    Example:
        >>> available()[0]
        'cpu'
    """
    names = ["cpu"]
    names += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def is_cpu(device: torch.device) -> bool:
    """Return whether results are there as soon as an operation returns."""
    return device.type == "cpu"


def is_like_cuda(device: torch.device) -> bool:
    """Return whether a device has pinned memory and fused optimizers."""
    return device.type in LIKE_CUDA


def send(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device, without waiting for the device.

    Args:
        x: Any tensor.
        device: Where it has to be.

    Returns:
        The tensor itself if it is there already.

    Example:
        >>> send(torch.ones(2), torch.device("cpu"))
        tensor([1., 1.])
    """
    if x.device == device:
        return x
    if is_like_cuda(device) and is_cpu(x.device):
        # Only pinned memory can be read while the program goes on. PyTorch keeps it until then.
        x = x.contiguous().pin_memory()
    return x.to(device, non_blocking=True)


def double(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float64, without gradient; on the CPU where the device has no float64.

    Args:
        x: Any tensor.

    Returns:
        The numbers in float64.

    Example:
        >>> double(torch.ones(1)).dtype
        torch.float64
    """
    if x.device.type in WITHOUT_FLOAT64:
        x = x.cpu()
    return x.detach().double()


# --- checks that nobody waits for -----------------------------------------------------------------


class Findings:
    """What checks of values found on a device, as far as nobody has looked.

    A flag for each sentence lies on the device, is made once and then only changed in place: so a
    CUDA graph can keep writing to it.

    Example:
        >>> findings = Findings()
        >>> findings.note("x: expected finite values", torch.tensor(False))
        >>> findings.look()
        >>> findings.note("x: expected finite values", torch.tensor(True))
        >>> findings.look()
        Traceback (most recent call last):
        ValueError: x: expected finite values
    """

    def __init__(self) -> None:
        self._flags: dict[str, torch.Tensor] = {}

    def note(self, sentence: str, is_bad: torch.Tensor) -> None:
        """Remember a finding.

        Args:
            sentence: What to say if it is bad.
            is_bad: A bool tensor () on the device.
        """
        flag = self._flags.get(sentence)
        if flag is None:
            self._flags[sentence] = is_bad.detach().clone()
        else:
            flag.logical_or_(is_bad.detach())

    def look(self) -> None:
        """Wait for the device, once, and raise what was found since the last look.

        Raises:
            ValueError: A check has failed, with its sentence.
        """
        if not self._flags:
            return
        found = torch.stack(list(self._flags.values())).cpu().tolist()
        if not any(found):
            return
        for flag in self._flags.values():
            flag.zero_()
        raise ValueError(list(self._flags)[found.index(True)])


_findings: ContextVar[Findings | None] = ContextVar("findings", default=None)


@contextmanager
def deferring(findings: Findings) -> Iterator[None]:
    """Put off all checks of values on a device inside the block; on a CPU they raise at once.

    Args:
        findings: Takes what they find; whoever calls has to `look` sooner or later.

    Example:
        >>> with deferring(Findings()):
        ...     is_deferred(torch.ones(1))  # on a CPU nothing waits
        False
    """
    token = _findings.set(findings)
    try:
        yield
    finally:
        _findings.reset(token)


def is_deferred(x: torch.Tensor) -> bool:
    """Return whether a check of this tensor's values must not wait for its device.

    Args:
        x: Any tensor.

    Returns:
        True for a tensor that is not on a CPU, inside `deferring`.
    """
    return _findings.get() is not None and not is_cpu(x.device)


def note(holds: torch.Tensor, sentence: str) -> None:
    """Remember, where `is_deferred`, a condition that has to hold.

    Args:
        holds: A bool tensor () on the device.
        sentence: What to say if it does not hold.
    """
    _findings.get().note(sentence, ~holds)
