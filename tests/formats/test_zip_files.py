"""Weights in a zip: the chosen members, and every zip that is refused."""

from __future__ import annotations

import errno
import io
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from facespace.errors import ModelError
from facespace.formats.zip_files import is_archive, unpack_weights

GRAPH = os.urandom(300_000)
RUN = "20180402-114759"
CHECKPOINT = {
    f"{RUN}/model-{RUN}.meta": b"graph" * 1000,
    f"{RUN}/model-{RUN}.ckpt-275.index": b"index",
    f"{RUN}/model-{RUN}.ckpt-275.data-00000-of-00001": GRAPH,
}
AS_PUBLISHED = {f"{RUN}/": b"", f"{RUN}/{RUN}.pb": GRAPH, **CHECKPOINT}


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def unpacked(data: bytes, tmp_path: Path) -> Path:
    archive = tmp_path / "weights.zip"
    archive.write_bytes(data)
    return unpack_weights(archive, tmp_path / "unpacked")


def refused(data: bytes, tmp_path: Path) -> str:
    with pytest.raises(ModelError) as error:
        unpacked(data, tmp_path)
    text = str(error.value)
    assert text.splitlines() == [text]
    assert text.startswith(f"{tmp_path / 'weights.zip'}: ")
    return text.removeprefix(f"{tmp_path / 'weights.zip'}: ")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_only_the_frozen_graph_is_unpacked(tmp_path: Path, compression: int) -> None:
    path = unpacked(zipped(AS_PUBLISHED, compression), tmp_path)
    assert path == tmp_path / "unpacked" / f"{RUN}.pb"
    assert tree(tmp_path / "unpacked") == {f"{RUN}.pb": GRAPH}


def test_without_a_frozen_graph_the_checkpoint_is_unpacked(tmp_path: Path) -> None:
    members = {**CHECKPOINT, f"{RUN}/checkpoint": b"model_checkpoint_path", "../../evil.txt": b"x"}
    assert unpacked(zipped(members), tmp_path) == tmp_path / "unpacked"
    assert tree(tmp_path / "unpacked") == {name.split("/")[1]: data for name, data in CHECKPOINT.items()}


def test_files_added_by_macos_are_ignored(tmp_path: Path) -> None:
    members = {f"__MACOSX/._{RUN}.pb": b"x", f"{RUN}/._{RUN}.pb": b"x", f"{RUN}/{RUN}.pb": GRAPH}
    assert unpacked(zipped(members), tmp_path).read_bytes() == GRAPH


def test_is_archive(tmp_path: Path) -> None:
    for data, answer in ((zipped({"a": b""}), True), (b"PK", False), (b"", False), (GRAPH[:0] + b"\x0agraph", False)):
        (tmp_path / "file").write_bytes(data)
        assert is_archive(tmp_path / "file") is answer


@pytest.mark.parametrize("missing", [*CHECKPOINT, "all"], ids=lambda name: name.rpartition(".")[2])
def test_a_zip_without_a_model(tmp_path: Path, missing: str) -> None:
    members = {name: data for name, data in CHECKPOINT.items() if missing not in (name, "all")}
    assert refused(zipped({"readme.txt": b"", **members}), tmp_path) == (
        "must contain a frozen graph (.pb) or one checkpoint (.meta, .index, .data), "
        f"got neither in its {len(members) + 1} entries"
    )


def test_several_models(tmp_path: Path) -> None:
    assert "must contain one frozen graph (.pb), got 2" in refused(zipped({"a.pb": GRAPH, "b.pb": GRAPH}), tmp_path)
    two = {**CHECKPOINT, "other.meta": b""}
    assert "or one checkpoint" in refused(zipped(two), tmp_path)


def test_one_name_twice(tmp_path: Path) -> None:
    members = {**CHECKPOINT, "b/model.data-00000-of-00002": b"1", "c/model.data-00000-of-00002": b"2"}
    assert refused(zipped(members), tmp_path) == "contains model.data-00000-of-00002 twice"


@pytest.mark.parametrize(
    "name",
    ["../a.pb", "/a.pb", "x/../../a.pb", "..\\a.pb", "C:\\a.pb", "C:a.pb", "a\x1b[31m.pb", "a\n.pb", "x/..\\y/a.pb"],
)
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    text = refused(zipped({name: GRAPH}), tmp_path)
    assert text.endswith("the name leads out of the zip or is invalid on some systems")
    assert sorted(os.listdir(tmp_path)) == ["weights.zip"]


def test_a_link(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("a.pb")
    member.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(member, "/etc/passwd")
    assert refused(buffer.getvalue(), tmp_path) == "a.pb: must be a file, got a link"


def test_a_password(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.pb": GRAPH}))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert refused(bytes(data), tmp_path) == "a.pb: needs a password; unpack it and give the .pb"


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(tmp_path: Path, compression: int) -> None:
    text = refused(zipped({"a.pb": GRAPH}, compression), tmp_path)
    assert text == f"a.pb: compressed by method {compression}; unpack it and give the .pb"


def test_a_bomb(tmp_path: Path) -> None:
    text = refused(zipped({"a.pb": bytes(50_000_000)}), tmp_path)
    assert text.endswith("bytes would unpack to 50000000, but weights hardly shrink")
    assert not (tmp_path / "unpacked").exists()


def test_more_than_the_entry_says(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.pb": GRAPH}))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 1000)
    assert "a damaged zip" in refused(bytes(data), tmp_path)


def test_less_than_the_entry_says(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.pb": GRAPH}))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, len(GRAPH) + 1)
    assert "a damaged zip" in refused(bytes(data), tmp_path)


def test_weights_that_are_too_large(tmp_path: Path) -> None:
    data = bytearray(zipped(CHECKPOINT))
    for at in (position for position in range(len(data)) if data[position : position + 4] == b"PK\x01\x02"):
        struct.pack_into("<II", data, at + 20, 2**30, 2**30)
    assert refused(bytes(data), tmp_path) == "its weights must have at most 2147483647 bytes unpacked, got more"


def test_a_list_of_contents_that_fills_the_memory(tmp_path: Path) -> None:
    """A million entries in a small file, which the library would read at once."""
    entry = b"PK\x01\x02" + bytes(42)
    directory = entry * 50_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 50_000, 50_000, len(directory), 0, 0)
    assert refused(directory + end, tmp_path) == (
        f"the zip's directory must have at most 1048576 bytes, got {len(directory)}"
    )


def test_files_that_are_not_a_zip(tmp_path: Path) -> None:
    for data in (b"", b"PK\x03\x04", GRAPH, zipped(AS_PUBLISHED)[:-30]):
        assert "a damaged zip" in refused(data, tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        zipfile.BadZipFile("bad"), zlib.error("bad"), struct.error("bad"), EOFError(), ValueError("negative seek"),
        OverflowError("bad"), RuntimeError("password"), NotImplementedError("version 9.9"), OSError(errno.EINVAL, "bad"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_all_that_the_library_raises_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(file: object) -> None:
        raise error

    monkeypatch.setattr(zipfile, "ZipFile", fail)
    assert refused(b"", tmp_path).endswith("); download it again")


def test_a_full_disk_is_not_reported_as_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile, "ZipFile", fail)
    with pytest.raises(OSError, match="No space left"):
        unpacked(b"", tmp_path)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "unpacked").mkdir()
    with pytest.raises(FileExistsError):
        unpacked(zipped(AS_PUBLISHED), tmp_path)


SMALL = zipped({f"{RUN}/{RUN}.pb": os.urandom(100), "a.meta": b"aa" * 99})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, len(SMALL)),
)
def test_any_damage_is_one_error(tmp_path: Path, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(SMALL)
    for position, value in changes:
        data[position] = value
    archive, folder = tmp_path / "weights.zip", tmp_path / "unpacked"
    archive.write_bytes(data[: len(SMALL) if cut % 3 else cut])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of duplicate names
        try:
            path = unpack_weights(archive, folder)
        except ModelError as error:
            assert str(error).splitlines() == [str(error)]
        else:
            assert path.parent in (folder, tmp_path)
            assert all(file.parent == folder for file in folder.rglob("*"))
    for file in folder.rglob("*") if folder.exists() else ():
        file.unlink()
    if folder.exists():
        folder.rmdir()
