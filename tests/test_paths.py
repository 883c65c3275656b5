"""Paths of Windows, on any system: nothing takes them apart at a colon or a slash.

They are only read here, as text or as pure paths. What touches the disk uses `pathlib`, which knows
the system that it runs on; what is stored in a card or a recipe and read back has to come out as it
went in.
"""

import argparse
import json
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from replearn import _schema, data, models
from replearn.files import write_json
from replearn.pretrain.cli import _short_names, add_pretrain
from replearn.pretrain.recipe import SHAPES, from_json, to_json
from replearn.serve.bundle import FORM, previous_folder

WINDOWS = [
    r"C:\data\x",
    "C:/data/x",
    r"C:\scan 2026-01-05\a b",
    r"D:relative\to the drive",
    r"\\server\share\pictures",
    r"\\?\C:\very\long\path",
    r"C:\Users\Zoë\Фото\猫",
    r"C:\shapes: not a drive",
    r"C:\new\table\report",  # \n, \t and \r are no line ends here
    "Z:\\",
]
POSIX = ["/scan 2026-01-05 10:30", "/a:b/c", "/shapes: mine", "/ü/é", "/x\\y"]


@pytest.mark.parametrize("path", WINDOWS + POSIX)
def test_a_card_remembers_a_path_as_it_is(path, tmp_path):
    card = {"sha256": "0" * 64, "data": path}
    written = write_json(tmp_path / "card.json", card)
    read = _schema.parse(written.read_bytes())
    assert models.CARD.fault(read) is None
    assert models.data_name(read) == path


@pytest.mark.parametrize("path", [*WINDOWS, *POSIX, "2026", "null", "true", "[1]", "1e3"])
def test_the_command_takes_a_path_as_it_is_and_so_does_the_recipe(path):
    parser = argparse.ArgumentParser()
    add_pretrain(parser.add_subparsers())
    args = parser.parse_args(["pretrain", "--data", path, "--folder", path])
    assert args.data == path
    assert args.folder == path
    recipe = SHAPES.__class__(**(SHAPES.__dict__ | {"data": args.data}))
    assert from_json(to_json(recipe)).data == path


@pytest.mark.parametrize("path", WINDOWS)
def test_a_path_of_another_system_is_named_in_the_error(path):
    with pytest.raises(ValueError, match=re.escape(f"found {path!r}")):
        data.load(path)
    with pytest.raises(ValueError, match="no encoder"):
        models.load(path)


@pytest.mark.parametrize("path", WINDOWS)
def test_folders_beside_and_short_names(path):
    folder = PureWindowsPath(path) / "bundle"
    previous = previous_folder(folder)
    assert previous.parent == folder.parent
    assert previous.name == ".bundle.previous"
    assert previous.drive == folder.drive


def test_rows_of_a_table_are_called_by_the_last_part_of_a_path(monkeypatch):
    for kind, paths in (
        (PureWindowsPath, (r"C:\runs\first", r"\\server\runs\second")),
        (PurePosixPath, ("/runs/first", "/mnt/runs/second")),
    ):
        monkeypatch.setattr("replearn.pretrain.cli.Path", kind)
        encoders = dict.fromkeys(paths)
        assert list(_short_names(encoders)) == ["first", "second"]
        assert list(_short_names(dict.fromkeys((paths[0], f"{paths[0]}/")))) == list(
            dict.fromkeys((paths[0], f"{paths[0]}/"))
        )


def test_the_manifest_of_a_bundle_keeps_a_card_with_such_a_path():
    for path in WINDOWS:
        manifest = json.loads(json.dumps({"card": {"data": path}}))
        assert FORM.needed["card"].fault(manifest["card"]) is None
        assert manifest["card"]["data"] == path


def test_no_source_splits_at_a_colon_or_takes_slashes_for_granted():
    """A path is text to its reader: where one is taken apart, `pathlib` does it."""
    root = Path(models.__file__).parent
    splits = re.compile(r"""\.(r?split|r?partition)\(\s*["'](:|/|\\\\)["']""")
    allowed = {
        ("data/download.py", 'host = url.split("/")[2]'),
        ("serve/demo.py", 'name = schema.get("$ref", "").rsplit("/", 1)[-1]'),
    }
    found = set()
    for path in root.rglob("*.py"):
        for line in path.read_text("utf-8").splitlines():
            if splits.search(line):
                code = line.split("  #")[0].strip()
                found.add((path.relative_to(root).as_posix(), code))
    assert found <= allowed
