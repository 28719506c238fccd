"""Atomic files and folders: links, modes, devices, full disks, kills at every step."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from facespace.io import files
from facespace.io.files import (
    atomic_path,
    named_in_errors,
    restore_folder,
    take_folder_place,
    write_bytes,
    write_together,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="no links, modes and devices as POSIX has them")


def test_the_target_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "result.npz"
    with atomic_path(target) as path:
        path.write_bytes(b"half")
        assert path.parent == tmp_path
        assert path.suffix == ".npz"
        assert not target.exists()
    assert target.read_bytes() == b"half"
    assert os.listdir(tmp_path) == ["result.npz"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_file(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(failure), atomic_path(target) as path:
        path.write_text("new, but not who")
        raise failure
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.txt"]


def test_a_target_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(OSError), atomic_path(target) as path:
        path.write_text("new")
    assert os.listdir(tmp_path) == ["folder"]


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "nowhere" / "a.txt"):
        pytest.fail("the block must not run")


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_result_is_as_readable_as_any_other_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "a") as path:
            path.write_text("a")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o400])
def test_the_mode_of_a_replaced_file_is_kept(tmp_path: Path, mode: int, umask: int) -> None:
    target = tmp_path / "private"
    target.write_text("old")
    target.chmod(mode)
    before = os.umask(umask)
    try:
        with atomic_path(target) as path:
            path.write_text("new")
            assert stat.S_IMODE(path.stat().st_mode) & ~(mode | 0o200) == 0, "no other user can read it meanwhile"
    finally:
        os.umask(before)
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == mode


@posix
@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_kept_and_its_file_is_replaced(tmp_path: Path, there: bool) -> None:
    (tmp_path / "disk").mkdir()
    real, first, second = tmp_path / "disk" / "real.txt", tmp_path / "first", tmp_path / "second"
    if there:
        real.write_text("old")
    first.symlink_to("disk/real.txt")
    second.symlink_to(first)
    write_bytes(second, b"new")
    assert second.is_symlink() and first.is_symlink()
    assert real.read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["disk", "first", "second"]
    assert os.listdir(tmp_path / "disk") == ["real.txt"]


@posix
def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"x" * 200_000)  # more than fits into a pipe
    reader.join(30)
    assert got == [b"x" * 200_000]
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


@posix
def test_a_device_is_written_to(tmp_path: Path) -> None:
    write_bytes(Path(os.devnull), b"gone")
    assert Path(os.devnull).is_char_device()
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    write_bytes(link, b"gone")
    assert link.is_symlink() and Path(os.devnull).is_char_device()


@pytest.mark.parametrize(
    ("filename", "named"), [(None, "a.txt"), ("x/.facespace-1f", "a.txt"), (".facespace-1f/y", "a.txt"), ("b", "b")]
)
def test_an_error_without_a_file_or_of_a_temporary_one_names_the_target(filename: str | None, named: str) -> None:
    with pytest.raises(OSError) as raised, named_in_errors(Path("a.txt")):
        raise OSError(errno.ENOSPC, "No space left on device", filename)
    assert raised.value.filename == named


@posix
def test_a_copy_that_fails_names_what_was_to_be_written(tmp_path: Path) -> None:
    import resource

    (tmp_path / "source").write_bytes(b"x" * 5000)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError) as raised, atomic_path(tmp_path / "target") as path:
            shutil.copyfile(tmp_path / "source", path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert str(raised.value) == f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: {str(tmp_path / 'target')!r}"
    assert os.listdir(tmp_path) == ["source"]


@posix
def test_a_folder_that_refuses_a_file_names_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(PermissionError) as raised:
        write_bytes(tmp_path / "a", b"x")
    assert raised.value.filename == str(tmp_path / "a")


def test_files_that_belong_together_are_replaced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a.json", tmp_path / "a.onnx"
    write_together({first: "old é", second: b"old"})
    assert (first.read_text("utf-8"), second.read_bytes()) == ("old é", b"old")
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.suffix == ".onnx":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as raised:
        write_together({first: "new", second: b"new"})
    assert raised.value.filename == str(second)
    assert {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()} == {"a.json": "old é", "a.onnx": "old"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_device_is_an_error() -> None:
    with pytest.raises(OSError) as raised:
        write_bytes(Path("/dev/full"), b"x")
    assert raised.value.errno == errno.ENOSPC


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no /dev/stdout")
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("into", ["file", "pipe"])
def test_standard_output_is_written_to_in_order(tmp_path: Path, name: str, into: str) -> None:
    if name.startswith("/proc") and not Path(name).exists():
        pytest.skip("no /proc")
    (tmp_path / "link").symlink_to("/dev/stdout")
    code = (
        "from pathlib import Path; from facespace.io.files import write_bytes\n"
        f"print('before'); write_bytes(Path({name!r}), b'data\\n'); print('after')"
    )
    command = [sys.executable, "-c", code]
    if into == "pipe":
        out = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    else:
        with (tmp_path / "out").open("wb") as file:
            subprocess.run(command, cwd=tmp_path, stdout=file, check=True)
        out = (tmp_path / "out").read_bytes()
    assert out == b"before\ndata\nafter\n"


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no /dev/stdout")
def test_which_paths_are_standard_output(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    (tmp_path / "other").touch()
    names = ["/dev/stdout", "/dev/fd/1", "link", "/dev/stderr", "other", "missing", "."]
    code = (
        "import sys; from pathlib import Path; from facespace.io.files import is_stdout\n"
        f"print([is_stdout(Path(name)) for name in {names}], file=sys.stderr)"
    )
    with (tmp_path / "out").open("wb") as file:
        for into in (subprocess.PIPE, file):
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, stdout=into, stderr=subprocess.PIPE, check=True
            )
            assert done.stderr.decode().strip() == str([True] * 3 + [False] * 4)


def test_content_is_on_the_disk_before_the_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: (steps.append("replace"), replace(*paths))[1])
    write_bytes(tmp_path / "a", b"a")
    assert steps == ["file", "replace", *(["folder"] if hasattr(os, "O_DIRECTORY") else [])]


def test_a_disk_that_fails_late_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems allocate space only when a file is synced."""
    target = tmp_path / "a"
    target.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(target, b"new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


# --- folders ----------------------------------------------------------------------------------------------------------


def folder_of(path: Path, text: str) -> Path:
    (path / "within").mkdir(parents=True)
    (path / "a").write_text(text)
    (path / "within" / "b").write_text(text)
    return path


def texts(path: Path) -> list[str]:
    return [(path / "a").read_text(), (path / "within" / "b").read_text()]


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_replaces_its_target(tmp_path: Path, there: bool) -> None:
    if there:
        folder_of(tmp_path / "model", "old")
    take_folder_place(folder_of(tmp_path / "new", "new"), tmp_path / "model")
    assert texts(tmp_path / "model") == ["new", "new"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_that_cannot_replace_its_target_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path / "model", "old")
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="broken"):
        take_folder_place(folder_of(tmp_path / "new", "new"), tmp_path / "model")
    assert texts(tmp_path / "model") == ["old", "old"]


def test_the_call_after_a_kill_keeps_the_only_old_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is killed between the two renames; the next call fails too, but restores the old folder."""
    folder_of(tmp_path / ".facespace-old-model", "old")
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="broken"):
        take_folder_place(folder_of(tmp_path / "new", "new"), tmp_path / "model")
    assert texts(tmp_path / "model") == ["old", "old"]


KILLED = """
import os, shutil, sys
from pathlib import Path
from facespace.io import files
left = int(sys.argv[1])
def dies(function):
    def step(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return function(*arguments, **options)
    return step
for owner, name in ((Path, "rename"), (os, "fsync"), (os, "unlink"), (os, "rmdir"), (os, "rename")):
    setattr(owner, name, dies(getattr(owner, name)))
files.take_folder_place(Path("new"), Path("model"))
"""


@posix
def test_a_kill_at_any_step_loses_no_folder(tmp_path: Path) -> None:
    """After a kill and a new start, the old or the new folder is complete, and nothing else is left."""
    for step in range(100):
        here = tmp_path / str(step)
        here.mkdir()
        folder_of(here / "model", "old")
        folder_of(here / "new", "new")
        done = subprocess.run([sys.executable, "-c", KILLED, str(step)], cwd=here, check=False)
        restore_folder(here / "model")
        assert texts(here / "model") in (["old", "old"], ["new", "new"])
        took_place = texts(here / "model") == ["new", "new"]
        assert (here / "new").exists() != took_place
        shutil.rmtree(here / "new", ignore_errors=True)
        take_folder_place(folder_of(here / "newer", "newer"), here / "model")
        assert texts(here / "model") == ["newer", "newer"]
        assert [name for name in os.listdir(here) if name.startswith(f"{files.TEMPORARY}old")] == []
        if done.returncode == 0:
            break
        assert done.returncode == 9
    assert 8 < step < 99
