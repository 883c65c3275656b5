"""A device that this machine does not have, to count where a program would wait for it.

`FakeDevice` is a mode for a with block, in which "fakegpu" is a device: its tensors are computed on
the CPU, and behave as those of a GPU do. It counts every wait of host for device:

- a value is asked for: `.item()`, `if tensor:`, `.tolist()`, `.cpu()`, `print`;
- the shape of a result depends on values: `nonzero`, a mask as an index, `unique`;
- a tensor is copied to the device otherwise than from pinned memory and with `non_blocking=True`.

It refuses what a GPU refuses: tensors of both devices in one operation (but for a CPU tensor of one
number), and, as Apple's, float64.

What a real GPU adds, a fake one cannot show: streams, CUDA graphs, speed.
"""

import traceback
from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "fakegpu"
aten = torch.ops.aten
# Of these the shape of the result depends on values, or the result is a value.
WAITS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
}


class Runtime(getattr(backend_registration, "_DummyBackendModule", object)):
    """What PyTorch asks a device's module for. Outside of the with block there is no device."""

    def is_available(self):
        return _active is not None

    def device_count(self):
        return int(_active is not None)

    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device=None):
        return torch.empty(0)  # it has no generator of its own

    def set_rng_state(self, state, device=None):
        """See `get_rng_state`."""


class Hook(getattr(backend_registration, "_DummyPrivateUse1Hook", object)):
    """What PyTorch's C++ asks."""

    def is_available(self):
        return _active is not None


def fake_device():
    """Return the device, which PyTorch knows from the first call on.

    Without a PyTorch that lets Python register a device, the test is skipped."""
    register = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if register is None:
        pytest.skip("this PyTorch cannot register a device from Python")
    if torch._C._get_privateuse1_backend_name() != NAME:
        register(NAME, backend_module=Runtime(), hook=Hook())
    return torch.device(NAME, 0)


_active = None  # the mode whose with block is open


class OnDevice(torch.Tensor):
    """A tensor of the fake device; `.inner` is where its numbers really are."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
            requires_grad=inner.requires_grad,
        )

    def __init__(self, inner):
        self.inner = inner.detach()

    def __repr__(self, *, tensor_contents=None):
        return f"OnDevice({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if _active is None:
            raise RuntimeError(f"{function} outside of the fake device's with block")
        return _active.computed(function, args, kwargs or {})


class FakeDevice(TorchDispatchMode):
    """Within the with block there is a device "fakegpu"; `waits` counts the waits for it by place.

    Args:
        has_float64: Whether it has float64.
    """

    def __init__(self, has_float64=True):
        super().__init__()
        self.device = fake_device()
        self.has_float64 = has_float64
        self.waits = Counter()
        self.operations = 0
        self.pinned = {}  # by address; kept, so that none is used again

    def __enter__(self):
        global _active
        _active = self
        # A module that moves gets new parameters: those of the CPU cannot become such tensors.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *error):
        global _active
        _active = None
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        return super().__exit__(*error)

    @property
    def total(self):
        """Waits so far."""
        return sum(self.waits.values())

    @contextmanager
    def none_allowed(self):
        """No wait happens in the block, or an AssertionError names the places."""
        before = Counter(self.waits)
        yield
        new = self.waits - before
        assert not new, f"{sum(new.values())} waits for the device: {dict(new)}"

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return self.computed(function, args, kwargs or {})

    def computed(self, function, args, kwargs):
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        if function.overloadpacket in (aten._pin_memory, aten.pin_memory):
            copy = args[0].clone()
            self.pinned[copy.data_ptr()] = copy
            return copy
        on_device = [x for x in tensors if isinstance(x, OnDevice)]
        on_cpu = [x for x in tensors if not isinstance(x, OnDevice)]
        asked = kwargs.get("device")
        is_asked = asked is not None and torch.device(asked).type == NAME
        if not on_device and not is_asked:
            return function(*args, **kwargs)
        self.operations += 1

        name = function.overloadpacket
        leaves = asked is not None and not is_asked
        if name in (aten._to_copy, aten.copy_, aten._copy_from, aten.set_):
            arrives = bool(on_cpu) if name is not aten._to_copy else is_asked and bool(on_cpu)
            if name is aten.copy_ and not isinstance(args[0], OnDevice):
                leaves, arrives = True, False
            goes_on = kwargs.get("non_blocking") or (name is aten.copy_ and args[2:3] == (True,))
            is_pinned = all(x.data_ptr() in self.pinned for x in on_cpu)
            if leaves or (arrives and not (goes_on and is_pinned)):
                self.wait(function)
        else:
            strangers = [x for x in on_cpu if x.ndim > 0]
            if strangers and on_device:
                raise RuntimeError(
                    f"{function}: expected all tensors on one device, found {NAME} and a CPU "
                    f"tensor of shape {tuple(strangers[0].shape)}"
                )
        if function in WAITS and on_device:
            self.wait(function)
        if name in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
            kinds = [x.dtype for x in args[1] if x is not None]
            if torch.bool in kinds or torch.uint8 in kinds:
                self.wait(function)

        inside = tree_map(lambda x: x.inner if isinstance(x, OnDevice) else x, (args, kwargs))
        inner_args, inner_kwargs = inside
        if is_asked:
            inner_kwargs = {**inner_kwargs, "device": torch.device("cpu")}
        inner_kwargs.pop("pin_memory", None)
        result = function(*inner_args, **inner_kwargs)
        if name is aten._to_copy and not leaves and result is inner_args[0]:
            result = result.clone()
        if leaves:
            return result
        return self.returned(function, args, kwargs, result)

    def returned(self, function, args, kwargs, result):
        """Return what an operation gave as tensors of the device: what was changed in place is the
        argument itself."""
        arguments = function._schema.arguments
        written = []
        for number, argument in enumerate(arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = args[number] if number < len(args) else kwargs.get(argument.name)
                written.append(given)
        if written and len(function._schema.returns) == len(written):
            return written[0] if len(written) == 1 else tuple(written)
        return tree_map(self.wrapped, result)

    def wrapped(self, x):
        if not isinstance(x, torch.Tensor) or isinstance(x, OnDevice):
            return x
        if x.dtype == torch.float64 and not self.has_float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support "
                "float64. Please use float32 instead."
            )
        return OnDevice(x)

    def wait(self, function):
        """Count a wait; the place is the last line outside of PyTorch and of this file."""
        places = [
            frame
            for frame in traceback.extract_stack()
            if "/torch/" not in frame.filename and frame.filename != __file__
        ]
        place = places[-1]
        name = place.filename.rsplit("/", 1)[-1]
        self.waits[f"{name}:{place.lineno} {place.line} ({function})"] += 1
