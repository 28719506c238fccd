"""Tests kept networks: they give the same numbers, and files that are damaged or not the user's are not used."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from facespace import Embedder, ModelError
from facespace.formats import onnx_normalization
from facespace.runtime import kept_networks
from facespace.runtime.kept_networks import options_without_optimisation, rewritten
from facespace.runtime.onnx_network import OnnxNetwork
from support.tiny_model import SIZE, tiny_model

NAME = "0123456789abcdef" * 4


def computed(data: bytes, options: object = None) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]
    crops = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.float32)
    return session.run(None, {name: crops})[0]


def never() -> bytes:
    pytest.fail("the model was read though its network is kept")


def test_a_model_is_read_once_and_computes_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "networks"
    data, done = rewritten(folder, NAME, tiny_model)
    assert done and rewritten(folder, NAME, never) == (data, True)
    np.testing.assert_array_equal(computed(data, options_without_optimisation()), computed(tiny_model()))
    assert [file.suffix for file in folder.iterdir()] == [".onnx"]
    assert rewritten(folder, NAME[1:], tiny_model)[1] and len(list(folder.iterdir())) == 2, "another name, another file"


def test_another_environment_makes_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another processor, another version of ONNX Runtime."""
    rewritten(tmp_path, NAME, tiny_model)
    with pytest.raises(pytest.fail.Exception):
        rewritten(tmp_path, NAME, never, "avx1024")
    kept_networks._environment_digest.cache_clear()
    monkeypatch.setattr("onnxruntime.__version__", "99.0")
    with pytest.raises(pytest.fail.Exception):
        rewritten(tmp_path, NAME, never)
    monkeypatch.undo()
    kept_networks._environment_digest.cache_clear()
    assert rewritten(tmp_path, NAME, never)[1]


def test_compiled_code_does_not_change_the_environment() -> None:
    """Python writes compiled code at the first run; the second run must still find the network."""
    compiled = Path(kept_networks.__file__).parents[1] / "formats" / "__pycache__"
    compiled.mkdir(exist_ok=True)
    seen = set()
    for second in (1, 2):
        os.utime(compiled, (second, second))
        kept_networks._environment_digest.cache_clear()
        seen.add(kept_networks._environment_digest())
    assert len(seen) == 1


def test_nothing_is_kept_if_the_environment_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(processor: str) -> str:
        raise FileNotFoundError("package.zip/formats")

    monkeypatch.setattr(kept_networks, "_environment_digest", nowhere)
    assert rewritten(tmp_path, NAME, tiny_model) == (tiny_model(), False)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    whole, _ = rewritten(tmp_path, NAME, tiny_model)
    (file,) = tmp_path.iterdir()
    for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], b""):
        file.write_bytes(damaged)
        assert rewritten(tmp_path, NAME, tiny_model) == (whole, True)
        assert file.read_bytes() == whole


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_files_that_others_can_write_are_not_used(tmp_path: Path) -> None:
    whole, _ = rewritten(tmp_path, NAME, tiny_model)
    (file,) = tmp_path.iterdir()
    file.chmod(0o666)
    with pytest.raises(pytest.fail.Exception):
        rewritten(tmp_path, NAME, never)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(pytest.fail.Exception):
        rewritten(tmp_path, NAME, never)
    file.unlink()
    file.write_bytes(whole)
    if os.getuid() == 0:
        assert rewritten(tmp_path, NAME, never)[1]
        os.chown(file, 12345, 12345)
        with pytest.raises(pytest.fail.Exception):
            rewritten(tmp_path, NAME, never)


def test_the_model_is_used_unchanged_if_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert rewritten(tmp_path / "file", NAME, tiny_model) == (tiny_model(), False)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_networks, "write_bytes", full)
    folder = tmp_path / "networks"
    assert rewritten(folder, NAME, tiny_model) == (tiny_model(), False)
    assert list(folder.iterdir()) == []
    assert rewritten(folder, NAME, lambda: b"no model") == (b"no model", False), "its reader says what is wrong"


def test_the_newest_networks_are_kept(tmp_path: Path) -> None:
    for k in range(12):
        rewritten(tmp_path, f"{k:032}" * 2, tiny_model)
        for file in tmp_path.glob(f"{k:032}*"):
            os.utime(file, (k, k))
    rewritten(tmp_path, NAME, tiny_model)
    left = {file.name[:32] for file in tmp_path.iterdir()}
    assert len(left) == kept_networks._KEPT and NAME[:32] in left and f"{0:032}" not in left


def test_a_network_computes_what_it_keeps(tmp_path: Path) -> None:
    options = {"source": "tiny", "precision": "float32", "runtime": "onnxruntime"}
    crops = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.float32)
    (expected,) = OnnxNetwork(tiny_model(), **options).run(crops)
    for read in (tiny_model, never):
        network = OnnxNetwork(read, keep=(tmp_path, NAME), **options)
        np.testing.assert_array_equal(network.run(crops)[0], expected)
        np.testing.assert_array_equal(network.run_parts([crops, crops])[1], expected)


def changed(file: str, sha256: str) -> bytes:
    raise ModelError(f"{file}: the file was changed")


def test_the_default_model_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPACE_HOME", str(tmp_path))
    crops = np.random.default_rng(2).integers(0, 256, (2, 112, 112, 3), np.uint8)
    first = Embedder.load("sface", few=True).embed(crops)
    assert len(list((tmp_path / "networks").iterdir())) == 1
    monkeypatch.setattr(onnx_normalization, "open_onnx", lambda *_: never())
    again = Embedder.load("sface", few=True)
    with monkeypatch.context() as broken, pytest.raises(ModelError, match="the file was changed"):
        broken.setattr("facespace.io.packed_weights.read_packed", changed)
        Embedder.load("sface", few=True)
    np.testing.assert_array_equal(again.embed(crops), first)
    monkeypatch.undo()
    monkeypatch.setenv("FACESPACE_HOME", "/dev/null/nowhere")
    np.testing.assert_array_equal(Embedder.load("sface", few=True).embed(crops), first)
