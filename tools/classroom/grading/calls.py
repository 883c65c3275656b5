"""System calls that are closed to a notebook, because no namespace of bubblewrap's stands in their
way.

The kernel keeps keys (of Kerberos, of encrypted folders) for whoever has logged in, and every
process inherits them. Some kinds of socket pass the wall, too: through AF_VSOCK a virtual machine
speaks to its host. The other calls on the list serve nobody here, and faults of the kernel were
found in them.
"""

import ctypes
import errno
import os
import struct

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_… of the kernel's audit.h
SECCOMP = {"x86_64": 317, "aarch64": 277}
# The numbers of a call on these machines, in their order.
CLOSED = {
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "syslog": (103, 116),
}
# A filter is a program for the kernel: load a number, compare and jump, return.
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER, MACHINE = 0, 4  # where they stand in what a filter is shown
ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | errno.EPERM
OTHER_TABLE = 0x40000000  # from here on: the same calls of x86-64 by other numbers
NO_NEW_PRIVILEGES = 38
SET_FILTER, ALL_THREADS = 1, 1


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def close() -> None:
    """Close the calls for this process, its threads and whatever it starts, for good.

    Raises:
        OSError: The kernel takes no filter, or the numbers for this machine are not known.
    """
    machine = os.uname().machine
    if machine not in MACHINES:
        raise OSError(f"expected {' or '.join(MACHINES)}, found {machine}")
    steps = program(machine)
    libc = ctypes.CDLL(None, use_errno=True)
    number, zero = ctypes.c_long(SECCOMP[machine]), ctypes.c_ulong(0)
    libc.prctl(NO_NEW_PRIVILEGES, ctypes.c_ulong(1), zero, zero, zero)
    loaded = _Program(len(steps) // 8, steps)
    refused = libc.syscall(
        number, ctypes.c_ulong(SET_FILTER), ctypes.c_ulong(ALL_THREADS), ctypes.byref(loaded)
    )
    if refused:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def program(machine: str) -> bytes:
    """Return the filter, 8 bytes a step: what is not closed is allowed.

    Args:
        machine: As `uname -m` says; a call that was made in the manner of another one is refused.
    """
    column = list(MACHINES).index(machine)
    numbers = [call[column] for call in CLOSED.values()]
    steps = [(LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, MACHINES[machine]), (RETURN, 0, 0, REFUSE)]
    steps += [(LOAD, 0, 0, NUMBER), (AT_LEAST, len(numbers) + 1, 0, OTHER_TABLE)]
    for position, number in enumerate(numbers):
        steps.append((EQUAL, len(numbers) - position, 0, number))
    steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
