"""Files are whole at any moment, and an error says what to do."""

import errno
import json
import math
import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from replearn import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- the atomic write ---


@pytest.mark.parametrize("content", ["naïve\r\nsecond line\n", b"\x00\xff", "", b""])
def test_what_is_written_can_be_read_again(tmp_path, content):
    path = files.write_atomically(tmp_path / "file", content)
    assert path == tmp_path / "file"
    expected = content.encode() if isinstance(content, str) else content
    assert path.read_bytes() == expected
    assert names(tmp_path) == ["file"]


def test_a_path_may_be_a_string(tmp_path):
    path = files.write_atomically(f"{tmp_path}/file", "text")
    assert isinstance(path, Path)
    assert path.read_text() == "text"


def test_a_second_write_replaces_the_first(tmp_path):
    files.write_atomically(tmp_path / "file", "a longer old text")
    files.write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert names(tmp_path) == ["file"]


def test_an_exception_inside_the_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="in the middle"), files.replacing(path) as file:
        file.write(b"half of the new")
        raise RuntimeError("in the middle")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_interrupt_inside_the_block_leaves_no_new_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.replacing(tmp_path / "file") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_at_any_step_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_text("old")

    def full_disk(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_the_new_file_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    """A machine that loses power must not find the new name on an empty file."""
    calls = []
    fsync = os.fsync
    replace = os.replace

    def recorded_fsync(descriptor):
        calls.append(f"fsync of {os.fstat(descriptor).st_size} bytes")
        fsync(descriptor)

    def recorded_replace(source, target):
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    files.write_atomically(tmp_path / "file", "12345")
    assert calls == ["fsync of 5 bytes", "replace"]


def test_a_reader_sees_a_whole_file_while_threads_write(tmp_path):
    path = tmp_path / "file"
    contents = {letter: letter * 200_000 for letter in "abc"}
    files.write_atomically(path, contents["a"])
    errors = []

    def write(content):
        try:
            for _ in range(20):
                files.write_atomically(path, content)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=[content]) for content in contents.values()]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_text() in contents.values()
    for thread in threads:
        thread.join()
    assert errors == []
    assert path.read_text() in contents.values()
    assert names(tmp_path) == ["file"]


def test_two_blocks_at_once_do_not_share_a_file(tmp_path):
    path = tmp_path / "file"
    with files.replacing(path) as first:
        first.write(b"first ")
        with files.replacing(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        first.write(b"again")
    assert path.read_bytes() == b"first again"
    assert names(tmp_path) == ["file"]


def test_the_previous_file_is_kept(tmp_path):
    path = tmp_path / "file"
    previous = tmp_path / "previous"
    files.write_atomically(path, "1", previous=previous)
    assert names(tmp_path) == ["file"]
    files.write_atomically(path, "2", previous=previous)
    files.write_atomically(path, "3", previous=previous)
    assert path.read_text() == "3"
    assert previous.read_text() == "2"
    assert names(tmp_path) == ["file", "previous"]


def test_an_exception_keeps_the_previous_file_as_well(tmp_path):
    path = tmp_path / "file"
    previous = tmp_path / "previous"
    path.write_text("2")
    previous.write_text("1")
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        files.replacing(path, previous=previous),
    ):
        raise RuntimeError("in the middle")
    assert path.read_text() == "2"
    assert previous.read_text() == "1"


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, expected):
    """A temporary file that only its owner may read must not become the result."""
    before = os.umask(umask)
    try:
        path = files.write_atomically(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == expected


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    name = "n" * 250
    files.write_atomically(tmp_path / name, "text")
    assert names(tmp_path) == [name]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.write_atomically(tmp_path / "missing" / "file", "text")
    assert names(tmp_path) == []


# --- JSON ---


def test_json_is_indented_text_that_people_can_read(tmp_path):
    path = files.write_json(tmp_path / "new" / "folder" / "record.json", {"name": "Zürich", "n": 1})
    assert path.read_text("utf-8") == '{\n "name": "Zürich",\n "n": 1\n}\n'
    files.write_json(path, [1], indent=2)
    assert path.read_text("utf-8") == "[\n  1\n]\n"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_is_not_finite(tmp_path, value):
    path = files.write_json(tmp_path / "record.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"loss": value})
    assert json.loads(path.read_text()) == {"loss": 1.0}
    assert names(tmp_path) == ["record.json"]


def test_json_refuses_other_types_before_it_makes_a_folder(tmp_path):
    with pytest.raises(TypeError, match="set"):
        files.write_json(tmp_path / "new" / "record.json", {"labels": {1, 2}})
    assert names(tmp_path) == []


# --- errors ---


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "no permission to write"),
        (errno.EPERM, "no permission to write"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_an_error_says_where_why_and_what_to_do(tmp_path, number, reason):
    cause = OSError(number, os.strerror(number))
    with pytest.raises(OSError, match="could not") as caught, files.explained(tmp_path, "save it"):
        raise cause
    sentence = str(caught.value)
    assert sentence.startswith(f"{tmp_path}: could not save it: {reason} (")
    assert " MB free); what was saved before is kept: make room or choose" in sentence
    assert caught.value.__cause__ is cause


def test_an_error_in_a_folder_that_is_gone_says_no_free_space(tmp_path):
    folder = tmp_path / "gone"
    with pytest.raises(OSError, match="could not write: the disk is full; what was saved"):
        with files.explained(folder):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(ValueError, match=r"^as it is$"), files.explained(tmp_path):
        raise ValueError("as it is")


def test_no_error_no_change(tmp_path):
    with files.explained(tmp_path):
        files.write_atomically(tmp_path / "file", "text")
    assert names(tmp_path) == ["file"]


# --- folders ---


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    folder = files.writable_folder(f"{tmp_path}/new/folder")
    assert folder == tmp_path / "new" / "folder"
    assert names(folder) == []
    assert files.writable_folder(folder) == folder


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.writable_folder("~/runs") == tmp_path / "runs"


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "file").write_text("here first")
    with pytest.raises(
        OSError, match="could not write to this folder: there is a file of this name"
    ):
        files.writable_folder(tmp_path / "file")


def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path, monkeypatch):
    """As for root every folder can be written to, the refusal is planted."""

    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match="could not write to this folder: no permission to write"):
        files.writable_folder(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="needs /dev")
@pytest.mark.parametrize("name", ["null", "stdout", "stderr", "full", "a new file"])
def test_nothing_in_dev_would_be_replaced(name):
    """Only asked, never tried: a fault here would break the machine that tests it."""
    with pytest.raises(OSError, match="found a device or a pipe"):
        files._check_replaceable(Path("/dev") / name)


def test_a_folder_and_a_pipe_are_not_replaced(tmp_path):
    with pytest.raises(OSError, match="expected the path of a file to write, found a folder"):
        files.write_atomically(tmp_path, "text")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        for write in (files.write_atomically, files.write_json):
            with pytest.raises(OSError, match="found a device or a pipe; give another"):
                write(tmp_path / "pipe", "text")
        assert (tmp_path / "pipe").is_fifo()
