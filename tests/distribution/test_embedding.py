"""`embed` in parts against `embed` at once: the same arrays, from local folders and stores."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facespace.distribution.embedding import PER_PART, EmbeddingWork, FaceTable, join_parts, read_parts
from facespace.distribution.parts import compute_parts
from facespace.distribution.plan import Plan, make_plan
from facespace.distribution.storage import Folder, find_photos
from facespace.errors import DatasetError, ModelError
from facespace.pipeline.photos import Photo
from support.commands import Outcome
from support.stores import memory_store as memory_store

Cli = Callable[..., Outcome]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, hopper_file: Path, collins_file: Path, cat_file: Path) -> Path:
    """A folder of photos with a face, without one, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    for name, file in (
        ("a.jpg", hopper_file),
        ("b.png", collins_file),
        ("c/d.png", cat_file),
        ("c/e.jpg", hopper_file),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(file, folder / name)
    (folder / "c" / "damaged.jpg").write_bytes(b"no photo")
    return folder


def arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as archive:
        return {name: archive[name] for name in archive.files}


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert list(ours) == list(theirs)
    for name in ours:
        assert (ours[name].dtype, ours[name].tolist()) == (theirs[name].dtype, theirs[name].tolist()), name


def test_parts_join_to_what_one_run_writes(
    cli: Cli, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    monkeypatch.setattr("facespace.distribution.embedding.PER_PART", 2)
    monkeypatch.setattr("facespace.pipeline.face_batches.IMAGES_IN_PART", 2)
    model = ("--model", "casia-webface")
    at_once = cli("embed", photos.name, "--output", tmp_path / "once.npz", *model)
    in_parts = cli("embed", photos.name, "--output", f"{tmp_path}/parts/", *model)
    assert (at_once.code, in_parts.code) == (1, 1)
    assert in_parts.err == at_once.err
    assert in_parts.out == f"3 faces of 4 photos -> {tmp_path}/parts/\n"
    folder = tmp_path / "parts"
    parts = [arrays(folder / f"part-{number:07d}.npz") for number in range(3)]
    assert_same(join_parts(parts), arrays(tmp_path / "once.npz"))
    name, reason = parts[1]["failed"].tolist()[0]
    assert name == f"{photos.name}/c/damaged.jpg"
    assert (folder / "failures.csv").read_text().splitlines()[1].startswith(f'{name},"{reason[:20]}')
    # A second run computes only what is missing, and writes the same again.
    (folder / "part-0000001.npz").unlink()
    before = (folder / "part-0000000.npz").stat().st_mtime_ns
    assert cli("embed", photos.name, "--output", folder, *model).err == at_once.err
    assert (folder / "part-0000000.npz").stat().st_mtime_ns == before
    assert_same(arrays(folder / "part-0000001.npz"), parts[1])


def test_photos_of_a_store_are_those_of_a_folder(
    cli: Cli, photos: Path, tmp_path: Path, memory_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in photos.rglob("*.*"):
        Folder(f"{memory_store}/photos").write(file.relative_to(photos).as_posix(), file.read_bytes())
    model = ("--model", "casia-webface")
    local = cli("embed", photos, "--output", tmp_path / "local.npz", *model)
    stored = cli("embed", f"{memory_store}/photos", "--output", f"{memory_store}/stored.npz", *model)
    assert (local.code, stored.code) == (1, 1)
    assert stored.err == local.err.replace(str(photos), f"{memory_store}/photos")
    (tmp_path / "stored.npz").write_bytes(Folder(memory_store).read("stored.npz"))
    ours, theirs = arrays(tmp_path / "stored.npz"), arrays(tmp_path / "local.npz")
    assert [path.removeprefix(memory_store) for path in ours.pop("path")] == [
        path.removeprefix(str(photos.parent)).replace(photos.name, "photos") for path in theirs.pop("path")
    ]
    assert_same(ours, theirs)
    assert Folder(f"{memory_store}/stored.npz.parts").names() == []


def work(folder: Path, **changes: object) -> EmbeddingWork:
    settings = {
        "folder": Folder(str(folder)), "base": "", "model": "casia-webface", "fingerprint": "other", "device": "auto",
        "largest": False, "try_rotations": False, "min_size": 20.0,
    }  # fmt: skip
    return EmbeddingWork(**{**settings, **changes})  # type: ignore[arg-type]


def test_a_different_model_on_a_worker_is_refused(photos: Path, tmp_path: Path, cli: Cli) -> None:
    embedding = work(tmp_path)
    plan = make_plan(embedding.folder, find_photos([str(photos)]), embedding.settings(), per_part=PER_PART)
    with pytest.raises(ModelError, match="a worker has a different model"):
        list(compute_parts(embedding, plan))
    assert embedding.folder.names() == []


def test_photos_of_the_same_names_in_another_folder_are_refused(
    cli: Cli, hopper_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = ("--output", f"{tmp_path}/out/", "--model", "casia-webface")
    for folder, code in (("one", 0), ("two", 1)):
        (tmp_path / folder).mkdir()
        shutil.copy(hopper_file, tmp_path / folder / "a.jpg")
        monkeypatch.chdir(tmp_path / folder)
        done = cli("embed", "a.jpg", *output)
        assert done.code == code, done.err
    assert "contains results made with photos_in" in done.err
    # An absolute path means the same from any folder, but it is another name.
    refused = cli("embed", tmp_path / "one" / "a.jpg", *output)
    assert refused.code == 1


def archive(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def one_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(3))
    return file.getvalue()


ROWS = {"path": ["a", "b"], "box": np.zeros((2, 4)), "score": [1, 1], "turned": [0, 0], "embedding": np.zeros((2, 8))}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\3\4 cut off",
        b"no archive",
        one_array(),
        archive(x=[1, 2]),
        archive(**ROWS, model="m"),
        archive(**ROWS, model="m", failed=["a"]),
        archive(**{**ROWS, "score": [1]}, model="m", failed=np.empty((0, 2), np.str_)),
        archive(**{**ROWS, "score": 1}, model="m", failed=np.empty((0, 2), np.str_)),
    ],
    ids=["empty", "cut", "other", "array", "columns", "no-failed", "failed", "lengths", "number"],
)
def test_a_damaged_part_is_one_error(tmp_path: Path, data: bytes) -> None:
    Folder(str(tmp_path)).write("part-0000000.npz", data)
    with pytest.raises(DatasetError, match=r"part-0000000\.npz: damaged; remove it and run again$"):
        list(read_parts(work(tmp_path), Plan(n_photos=1, per_part=PER_PART)))


def test_names_are_stored_as_plain_text() -> None:
    table = FaceTable(dimension=2)
    table.add(Photo("caf\udce9.jpg", error="no\nphoto"))
    assert table.failures == [("caf\\xe9.jpg", "no\\nphoto")]


def test_a_password_in_a_url_is_a_usage_error(cli: Cli) -> None:
    refused = cli("embed", "sftp://ann:secret@host/photos", "--output", "a.npz")
    assert refused.code == 2
    assert "sftp://host/photos: the URL must not have a password" in refused.err
    assert "secret" not in refused.err
