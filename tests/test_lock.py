"""One process at a time in a folder, however the others end."""

import errno
import os
import signal
import socket
import time

import pytest

from replearn import _lock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def in_a_child(work):
    """Do some work in a child of this process; return its number once it says that it is ready."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(lambda: os.write(writer, b"."))
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 1) == b"."
    os.close(reader)
    return child


def end(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_the_second_one_says_who_holds_it(tmp_path):
    path = tmp_path / "lock"
    with _lock.held(path):
        words = rf"^process {os.getpid()} on {socket.gethostname()}, since \d{{4}}-\d\d-\d\d "
        with pytest.raises(_lock.Held, match=words), _lock.held(path):
            pass
        assert path.exists()
    assert not path.exists()
    with _lock.held(path):
        pass


def test_a_killed_process_holds_nothing(tmp_path):
    path = tmp_path / "lock"

    def hold(ready):
        with _lock.held(path):
            ready()
            time.sleep(60)

    child = in_a_child(hold)
    with pytest.raises(_lock.Held, match=f"process {child} on "), _lock.held(path):
        pass
    end(child)
    assert path.exists()
    with _lock.held(path):
        pass


def test_a_dead_process_whose_child_inherited_the_lock_holds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(_lock, "GRACE", 0.05)
    path = tmp_path / "lock"
    orphans = tmp_path / "orphan"

    def hold_and_fork(ready):
        with _lock.held(path):
            orphan = os.fork()
            if orphan == 0:
                time.sleep(60)
                os._exit(0)
            orphans.write_text(str(orphan))
            ready()
            time.sleep(60)

    child = in_a_child(hold_and_fork)
    with pytest.raises(_lock.Held, match=f"process {child} on "), _lock.held(path):
        pass
    end(child)
    try:
        with _lock.held(path):
            pass
    finally:
        os.kill(int(orphans.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("name", ["gethostname", "_pid_namespace"])
def test_a_process_elsewhere_is_never_taken_for_dead(monkeypatch, name):
    dead = in_a_child(lambda ready: ready())
    os.waitpid(dead, 0)
    holder = {
        "host": socket.gethostname(),
        "pid": dead,
        "pid_namespace": _lock._pid_namespace(),
        "since": "",
    }
    assert _lock._is_dead(holder)
    assert not _lock._is_dead({**holder, "pid": os.getpid()})
    where = socket if name == "gethostname" else _lock
    monkeypatch.setattr(where, name, lambda: "another")
    assert not _lock._is_dead(holder)


@pytest.mark.parametrize("words", [b"", b"\xff\x00", b"[]", b'{"pid": "1"}', b"9" * 9000])
def test_foreign_words_are_no_hindrance(tmp_path, words):
    path = tmp_path / "lock"
    path.write_bytes(words)
    with _lock.held(path):
        path.write_bytes(words)
        with pytest.raises(_lock.Held, match=r"^another process$"), _lock.held(path):
            pass
    assert not path.exists()


def test_a_folder_without_locks_gets_a_warning_or_is_refused(tmp_path, monkeypatch):
    import fcntl

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match=r"this folder has no locks \(No locks available\)"):
        with _lock.held(tmp_path / "lock"):
            pass
    with pytest.raises(_lock.Held), _lock.held(tmp_path / "lock", required=True):
        pass


def test_many_processes_at_once_never_meet(tmp_path):
    path = tmp_path / "lock"
    counter = tmp_path / "counter"
    counter.write_text("0")
    rounds = 30

    def count(ready):
        ready()
        done = 0
        while done < rounds:
            try:
                with _lock.held(path):
                    number = int(counter.read_text())
                    time.sleep(0.001)
                    counter.write_text(str(number + 1))
                done += 1
            except _lock.Held:
                time.sleep(0.001)

    children = [in_a_child(count) for _ in range(5)]
    for child in children:
        os.waitpid(child, 0)
    assert int(counter.read_text()) == 5 * rounds
