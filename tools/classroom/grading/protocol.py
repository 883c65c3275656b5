"""Values between the grader and a learner's process: JSON with tensors in it, which cannot carry code."""

import base64
import json
import math
import struct
import time

import numpy as np
import torch

LARGEST = 16 * 2**20  # bytes of one message


def pack(value, refer, flagged=None):
    """A value as JSON; tensors that carry gradients are appended to `flagged`; `refer(value)` names anything odd."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        data = base64.b64encode(
            flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""
        ).decode()
        if flagged is not None and value.requires_grad:
            flagged.append(value)
        return {"tensor": [str(value.dtype)[6:], list(value.shape), data, value.requires_grad]}
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf":
        return {"array": pack(torch.from_numpy(np.array(value)), refer)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if value is ...:
        return {"ellipsis": 0}
    if isinstance(value, (list, tuple)):
        return {
            "list" if isinstance(value, list) else "tuple": [
                pack(item, refer, flagged) for item in value
            ]
        }
    if isinstance(value, dict):
        return {
            "dict": [[pack(key, refer), pack(item, refer, flagged)] for key, item in value.items()]
        }
    return refer(value)


def unpack(item, resolve, flagged=None):
    """The value of `pack`; anything unexpected is a ValueError, since a stranger may have written it."""
    if item is None or isinstance(item, (bool, int, float, str)):
        return item
    if not isinstance(item, dict) or len(item) != 1:
        raise ValueError(f"not a value: {type(item).__name__}")
    ((kind, content),) = item.items()
    if kind == "tensor":
        return _tensor(*content, flagged)
    if kind == "array":
        return unpack(content, resolve).numpy()
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](
            unpack(one, resolve, flagged) for one in content
        )
    if kind == "dict":
        return {unpack(key, resolve): unpack(one, resolve, flagged) for key, one in content}
    return ... if kind == "ellipsis" else resolve(kind, content)


def _tensor(name, shape, data, carries_gradient, flagged):
    dtype, raw = getattr(torch, name), bytearray(base64.b64decode(data))
    if (
        not isinstance(dtype, torch.dtype)
        or math.prod(shape) * dtype.itemsize != len(raw)
        or min(shape, default=0) < 0
    ):
        raise ValueError("a tensor whose size does not fit")
    plain = torch.uint8 if dtype == torch.bool else dtype
    tensor = (
        torch.frombuffer(raw, dtype=plain).reshape(shape)
        if raw
        else torch.empty(shape, dtype=plain)
    )
    tensor = tensor != 0 if dtype == torch.bool else tensor
    if carries_gradient:
        tensor.requires_grad_() if flagged is None else flagged.append(tensor)
    return tensor


def leaves(value, kinds=torch.Tensor):
    """The tensors (or what else is asked for) in nested lists, tuples and dicts."""
    if isinstance(value, kinds):
        return [value]
    items = (
        value.values()
        if isinstance(value, dict)
        else value
        if isinstance(value, (list, tuple))
        else ()
    )
    return [tensor for item in items for tensor in leaves(item, kinds)]


def send(sock, message):
    """One message, with its length before it."""
    data = json.dumps(message).encode()
    sock.sendall(struct.pack(">Q", len(data)) + data)


def receive(sock, deadline=None):
    """One message; TimeoutError after the deadline, EOFError after the other side's end, ValueError for nonsense."""
    size = struct.unpack(">Q", exactly(sock, 8, deadline))[0]
    if size > LARGEST:
        raise ValueError(f"an answer of {size / 2**20:.0f} MB")
    try:
        return json.loads(exactly(sock, size, deadline))
    except RecursionError:
        raise ValueError("an answer that is nested without end") from None


def exactly(sock, count, deadline):
    """So many bytes from the socket."""
    data = bytearray()
    while len(data) < count:
        if deadline is not None:
            sock.settimeout(max(deadline - time.monotonic(), 1e-3))
        try:
            chunk = sock.recv(min(count - len(data), 2**20))
        except ConnectionError:
            chunk = b""
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)
