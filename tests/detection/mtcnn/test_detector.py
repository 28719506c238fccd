"""The cascade against golden faces and against a simple port of the 2018 program with the original networks."""

from __future__ import annotations

import json
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facespace import MTCNN, Face
from facespace.detection.mtcnn.area_resize import area_resize
from facespace.detection.mtcnn.detector import _WAITING
from facespace.detection.mtcnn.pyramid import pyramid
from facespace.faces.alignment import crop_box
from support.mtcnn_reference import (
    run_original,
    slow,
)


def iou(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def numbers(faces: list[Face]) -> np.ndarray:
    """Return faces as rows of 15 numbers: box, score, landmarks."""
    return np.array([[*f.box, f.score, *np.ravel(f.landmarks)] for f in faces]).reshape(-1, 15)


def assert_same(ours: list[Face], theirs: np.ndarray, *, pixels: float = 0.05) -> None:
    """Check that faces are the same; two with almost equal scores may be in either order."""
    found = numbers(ours)
    assert len(found) == len(theirs)
    found, theirs = (rows[np.lexsort((rows[:, 1].round(), rows[:, 0].round()))] for rows in (found, theirs))
    np.testing.assert_allclose(found[:, 4], theirs[:, 4], atol=1e-3)
    np.testing.assert_allclose(np.delete(found, 4, 1), np.delete(theirs, 4, 1), atol=pixels)


# --- the 2018 program, ported simply -------------------------------------------------------------------------------


def resized(image: np.ndarray, height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    return area_resize(planes, np.empty((3, height, width), dtype)).transpose(1, 2, 0)


def square(boxes: np.ndarray) -> np.ndarray:
    found = []
    for x1, y1, x2, y2 in boxes:
        side = max(x2 - x1, y2 - y1)
        x, y = x1 + (x2 - x1) / 2 - side / 2, y1 + (y2 - y1) / 2 - side / 2
        found.append([int(x), int(y), int(x + side), int(y + side)])
    return np.array(found, np.float64).reshape(-1, 4)


def suppressed(rows: np.ndarray, threshold: float, overlap: str = "union") -> np.ndarray:
    """Suppress rows of box, score and other columns."""
    return rows[slow(rows[:, :4], rows[:, 4], threshold, overlap)]


def moved(rows: np.ndarray, plus: int) -> np.ndarray:
    """Move boxes by their offsets (columns 5 to 8); `plus` is 1 if sides include both end pixels."""
    sides = rows[:, 2:4] - rows[:, :2] + plus
    return rows[:, :4] + rows[:, 5:9] * np.hstack([sides, sides])


def cut(image: np.ndarray, boxes: np.ndarray, side: int) -> np.ndarray:
    """Cut boxes that count pixels from 1 and include both ends; zero outside the image."""
    crops = np.zeros((len(boxes), side, side, 3), np.float32)
    for crop, (x1, y1, x2, y2) in zip(crops, boxes.astype(int), strict=True):
        part = np.zeros((y2 - y1 + 1, x2 - x1 + 1, 3), np.uint8)
        for y in range(max(y1, 1), min(y2, image.shape[0]) + 1):
            left, right = max(x1, 1), min(x2, image.shape[1])
            if left <= right:
                part[y - y1, left - x1 : right - x1 + 1] = image[y - 1, left - 1 : right]
        crop[:] = resized(part, side, side, np.float32)
    return crops


def cascade_of_2018(image, min_size=20, thresholds=(0.6, 0.7, 0.7), factor=0.709) -> np.ndarray:
    """Return rows of 15 numbers."""
    rows = np.empty((0, 9))
    for level in pyramid(*image.shape[:2], min_size=min_size, factor=factor):
        _, probability, offsets = run_original("pnet", resized(image, level.height, level.width)[None])
        found = []
        hits = np.argwhere(probability[0] >= thresholds[0])  # the map is transposed
        for x, y in hits:
            corner = [int((2 * v + k) / level.scale) for k in (1, 12) for v in (x, y)]
            read_at = probability.shape[1] - 1 - x if len(hits) == 1 else x  # the program's bug
            found.append([*corner, probability[0, x, y], *offsets[0, read_at, y]])
        rows = np.vstack([rows, suppressed(np.array(found).reshape(-1, 9), 0.5)])
    boxes = square(moved(suppressed(rows, 0.7), 0))
    for name, side, threshold in (("rnet", 24, thresholds[1]), ("onet", 48, thresholds[2])):
        if not len(boxes):
            return np.empty((0, 15))
        _, probability, outputs = run_original(name, cut(image, boxes, side))
        rows = np.hstack([boxes, probability[:, None], outputs])[probability > threshold]
        if name == "rnet":
            boxes = square(moved(suppressed(rows, 0.7), 1))
    width, height = rows[:, 2:3] - rows[:, :1] + 1, rows[:, 3:4] - rows[:, 1:2] + 1
    x, y = width * rows[:, 9:14] + rows[:, :1] - 1, height * rows[:, 14:19] + rows[:, 1:2] - 1
    landmarks = np.stack([x, y], axis=2).reshape(-1, 10)
    return suppressed(np.hstack([moved(rows, 1), rows[:, 4:5], landmarks]), 0.7, "min")


@pytest.fixture(scope="module")
def small(hopper) -> np.ndarray:
    """Grace Hopper's face, 200 x 180."""
    return np.asarray(Image.fromarray(hopper).resize((256, 300), Image.Resampling.BILINEAR))[10:190, 40:240].copy()


def test_the_cascade_is_that_of_2018(detector, small):
    faces = detector.detect(small)
    assert len(faces) == 1
    assert_same(faces, cascade_of_2018(small))


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_face_cut_by_the_border(detector, small, side):
    x1, y1, x2, y2 = (int(v) for v in detector.detect(small)[0].box)
    x, y = x1 + (x2 - x1) // 5, y1 + (y2 - y1) // 5
    parts = {
        "left": small[:, x:],
        "right": small[:, : x2 - (x2 - x1) // 5],
        "top": small[y:],
        "bottom": small[: y2 - (y2 - y1) // 5],
    }
    image = np.ascontiguousarray(parts[side])
    faces = detector.detect(image)
    assert_same(faces, cascade_of_2018(image))
    assert len(faces) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"min_size": 30.5},
        {"factor": 0.6},
        {"thresholds": (0.3, 0.3, 0.05)},
        {"thresholds": (0.95, 0.7, 0.7)},
        {"thresholds": (0.3, 0.99, 0.7)},
    ],
    ids=str,
)
def test_options_have_the_effect_of_2018(small, options):
    assert_same(MTCNN(**options).detect(small), cascade_of_2018(small, **options))


def test_min_size_hides_smaller_faces(small):
    width = MTCNN().detect(small)[0].width
    assert MTCNN(min_size=2.5 * width).detect(small) == []
    tiny = np.asarray(Image.fromarray(small).resize((30, 27), Image.Resampling.BOX))
    assert MTCNN(min_size=27.5).detect(tiny) == []


def test_the_last_threshold_is_one_the_score_exceeds(small):
    lenient = MTCNN(thresholds=(0.6, 0.7, 0.01)).detect(small)
    assert all(face.score > 0.01 for face in lenient)
    score = lenient[0].score
    assert score > 0.99
    assert MTCNN(thresholds=(0.6, 0.7, min(score, 1 - 1e-9))).detect(small) == []


# --- golden faces -----------------------------------------------------------------------------------------------


def golden(shared: Path) -> list[dict]:
    """All of data/photos and every fifth LFW photo."""
    entries = json.loads((shared / "golden" / "mtcnn.json").read_text())["images"]
    photos = [entry for entry in entries if "/photos/" in entry["image"]]
    others = [entry for entry in entries if "/photos/" not in entry["image"]]
    assert len(photos) == 12
    return photos + others[::5]


@pytest.mark.shared
def test_golden_faces(shared, detector):
    entries = golden(shared)
    images = [np.asarray(Image.open(shared / entry["image"]).convert("RGB")) for entry in entries]
    sure = hits = 0
    errors, extra = [], []
    for entry, faces in zip(entries, detector.detect_many(images), strict=True):
        expected = list(entry["faces"])
        for theirs in expected:
            overlaps = [iou(theirs["box"], ours.box) for ours in faces]
            best = int(np.argmax(overlaps)) if overlaps else -1
            error = np.inf
            if best >= 0 and overlaps[best] >= 0.95:
                away = np.subtract(faces[best].landmarks, theirs["landmarks"])
                error = float(np.hypot(*away.T).max())
                errors.append(error)
            if theirs["score"] >= 0.9:
                sure += 1
                hits += error <= 2
        extra += [
            face
            for face in faces
            if face.score >= 0.95 and not any(iou(face.box, theirs["box"]) >= 0.5 for theirs in expected)
        ]
    assert sure >= 80
    assert hits / sure >= 0.98
    assert np.median(errors) <= 0.3
    assert extra == []


# --- one image and many -----------------------------------------------------------------------------------------


def mixture(small: np.ndarray, cat: np.ndarray) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    two = np.concatenate([small, small[:, ::-1]], axis=1)
    return [
        small,
        np.zeros((1, 1, 3), np.uint8),
        two,
        np.full((30, 900, 3), 128, np.uint8),
        np.ascontiguousarray(cat[::2, ::2]),
        np.kron(small, np.ones((5, 5, 1), np.uint8)),  # 900 x 1000: a chunk of its own
        rng.integers(0, 256, (64, 49, 3)).astype(np.uint8),
        small[:11],
        np.ascontiguousarray(small[:, ::-1]),
        small[20:150:1, 30:171],
    ]


def test_many_is_one_by_one(detector, small, cat_file):
    images = mixture(small, np.asarray(Image.open(cat_file).convert("RGB")))
    many = detector.detect_many(images)
    one = [detector.detect(image) for image in images]
    assert [len(faces) for faces in one][:5] == [1, 0, 2, 0, 0]
    assert len(one[5]) >= 1
    assert len(many) == len(images)
    for together, alone in zip(many, one, strict=True):
        assert_same(together, numbers(alone), pixels=0.02)


def test_many_takes_any_iterable_even_an_empty_one(detector, small):
    assert detector.detect_many([]) == []
    assert [len(faces) for faces in detector.detect_many(image for image in [small, small[:5], small])] == [1, 0, 1]


def test_four_threads_get_the_same_as_one(detector, small):
    images = [small, np.ascontiguousarray(small[:, ::-1]), np.ascontiguousarray(small[5:, 9:])] * 4
    alone = [numbers(detector.detect(image)) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for faces, expected in zip(pool.map(detector.detect, images), alone, strict=True):
            assert_same(faces, expected, pixels=0.02)
        for parts in pool.map(detector.detect_many, [images[:6], images[6:], images[:6], images[6:]]):
            for faces, expected in zip(parts, alone[:6], strict=True):
                assert_same(faces, expected, pixels=0.02)


@pytest.mark.parametrize("shape", [(1, 1), (11, 11), (19, 19), (1, 500), (500, 3), (12, 12), (20, 20), (21, 33)])
def test_tiny_images(detector, shape):
    assert detector.detect(np.full((*shape, 3), 90, np.uint8)) == []


def test_images_without_pixels_have_no_faces(detector):
    assert detector.detect(np.empty((0, 0, 3), np.uint8)) == []
    assert detector.detect_many([np.empty((0, 40, 3), np.uint8), np.empty((40, 0, 3), np.uint8)]) == [[], []]


def test_views_with_any_strides(detector, small):
    expected = numbers(detector.detect(np.ascontiguousarray(small[:, ::-1])))
    assert_same(detector.detect(small[:, ::-1]), expected)
    assert_same(detector.detect(np.asfortranarray(small[:, ::-1])), expected)
    locked = small[:, ::-1].copy()
    locked.flags.writeable = False
    assert_same(detector.detect(locked), expected)


def test_the_image_is_not_changed(detector, small):
    before = small.copy()
    detector.detect(small)
    assert (small == before).all()


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 50, 50, 3), np.uint8),
        np.zeros((50, 50, 5), np.uint8),
        np.zeros((50, 50, 3), np.int64),
        np.full((50, 50, 3), -1.0),
        np.zeros(50, np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{image.shape}",
)
def test_arrays_that_are_not_images(detector, image):
    with pytest.raises(ValueError, match=r"^an image must be \(H, W, 3\) uint8 RGB, or .*, got " + str(image.dtype)):
        detector.detect(image)
    with pytest.raises(ValueError, match="uint8 RGB"):
        detector.detect_many([image])


def test_all_kinds_of_images(detector, hopper, hopper_file):
    """Paths, PIL images and arrays of other kinds are read as `facespace.read` reads them."""
    expected = detector.detect(hopper)
    gray = np.asarray(Image.fromarray(hopper).convert("L"))
    assert len(expected) == 1
    for image in (hopper_file, str(hopper_file), Image.open(hopper_file), hopper / np.float32(255)):
        assert detector.detect(image) == expected
    for image in (gray, gray[..., None], np.dstack([gray, gray, gray, np.full_like(gray, 255)])):
        assert detector.detect(image) == detector.detect(np.dstack([gray] * 3))
    assert detector.detect_many([hopper_file, gray]) == [expected, detector.detect(gray)]


@pytest.mark.parametrize("call", ["detect", "detect_many"])
def test_the_error_for_other_inputs_is_one_line(detector, call):
    with pytest.raises(TypeError, match=r", got None, which some libraries return for a file they cannot read$"):
        getattr(detector, call)(None if call == "detect" else [None])
    with pytest.raises(TypeError, match="detect_many takes several images; got str"):
        detector.detect_many("party.jpg")
    with pytest.raises(TypeError, match="detect_many takes several images; got NoneType"):
        detector.detect_many(None)


def test_a_detector_is_pickled_by_its_options(hopper):
    again = pickle.loads(pickle.dumps(MTCNN(min_size=40, thresholds=(0.6, 0.7, 0.8), factor=0.7, device="cpu")))
    assert (again.min_size, again.thresholds, again.factor) == (40, (0.6, 0.7, 0.8), 0.7)
    assert len(again.detect(hopper)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_size": 1}, "min_size must be"),
        ({"min_size": 0}, "min_size must be"),
        ({"min_size": float("nan")}, "min_size must be"),
        ({"thresholds": (0.6, 0.7)}, "three probabilities"),
        ({"thresholds": (0.6, 0.7, 1.0)}, "between 0 and 1"),
        ({"thresholds": (0.0, 0.7, 0.7)}, "between 0 and 1"),
        ({"thresholds": (0.6, float("nan"), 0.7)}, "between 0 and 1"),
        ({"factor": 1.0}, "factor must be"),
        ({"factor": 0.05}, "factor must be"),
        ({"factor": float("nan")}, "factor must be"),
    ],
    ids=str,
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        MTCNN(**options)


def test_options_are_keywords():
    with pytest.raises(TypeError):
        MTCNN(20)


def test_the_runtime_has_a_name(detector):
    assert detector.runtime == "onnxruntime"


# --- helpers of a caller ---------------------------------------------------------------------------------------


def test_helpers_and_the_caller_share_the_inputs(detector, monkeypatch):
    """The helper waits until the caller has processed all but one input; results keep the order of the inputs."""
    monkeypatch.setattr(detector, "_n_cores", 2)
    caller, by_caller = threading.get_ident(), []
    begun, enough = threading.Event(), threading.Event()

    def inputs():
        yield 0
        assert begun.wait(60)
        yield from range(1, 6)

    def double(number: int) -> int:
        if threading.get_ident() != caller:
            begun.set()
            assert enough.wait(60)
        else:
            by_caller.append(number)
            if len(by_caller) == 5:
                enough.set()
        return 2 * number

    assert list(detector._map_with_helpers(double, inputs())) == [0, 2, 4, 6, 8, 10]
    assert by_caller == [1, 2, 3, 4, 5]


def test_few_inputs_are_prepared_in_advance_for_helpers(detector, monkeypatch):
    """The crops of a photo with thousands of candidates must not be in memory all at once."""
    monkeypatch.setattr(detector, "_n_cores", 2)
    caller, by_caller, all_made = threading.get_ident(), [], threading.Event()

    def inputs():
        yield from range(50)
        all_made.set()

    def same(number: int) -> int:
        if threading.get_ident() != caller:
            assert all_made.wait(60)
        else:
            by_caller.append(number)
        return number

    assert list(detector._map_with_helpers(same, inputs())) == list(range(50))
    assert by_caller[0] == 2 * _WAITING < 50


def test_inputs_are_released_after_they_are_processed(detector, monkeypatch):
    """The canvases of a photo of 100 megapixels are 300 MB, and each is read only once."""
    monkeypatch.setattr(detector, "_n_cores", 2)
    made: list[weakref.ref[np.ndarray]] = []
    computed = threading.Semaphore(0)

    def total(one: np.ndarray) -> int:
        computed.release()
        return int(one.sum())

    def inputs():
        for number in range(200):
            one = np.full(3, number)
            made.append(weakref.ref(one))
            yield one
            del one
            assert computed.acquire(timeout=60)
            assert sum(ref() is not None for ref in made) <= 2 * _WAITING + 2

    assert list(detector._map_with_helpers(total, inputs())) == [3 * number for number in range(200)]


def test_an_error_of_a_helper_is_raised_in_the_caller(detector, monkeypatch):
    monkeypatch.setattr(detector, "_n_cores", 2)
    with pytest.raises(ZeroDivisionError):
        list(detector._map_with_helpers(lambda number: 1 // number, [3, 2, 1, 0]))


def test_one_core_has_no_helpers(detector, monkeypatch, small):
    expected = numbers(detector.detect(small))
    monkeypatch.setattr(detector, "_n_cores", 1)
    monkeypatch.setattr(detector, "_helpers", None)
    np.testing.assert_allclose(numbers(detector.detect(small)), expected, atol=1e-3)


# --- a level with one candidate ------------------------------------------------------------------------------------


@pytest.mark.shared
def test_a_lone_candidate_moves_by_the_offsets_of_its_mirror_image(shared, detector):
    """Photos of LFW whose crop would move by more than a pixel with the correct offsets."""
    names = [
        f"{person}/{person}_{number:04d}.jpg"
        for person, number in (("Al_Davis", 2), ("Ali_Abbas", 2), ("Bulent_Ecevit", 3), ("Cecilia_Cheung", 1))
    ]
    golden = {
        line.split()[0]: line.split()[1:]
        for line in (shared / "golden/lfw_view1_boxes_160_32.txt").read_text().splitlines()
    }
    for name in names:
        image = np.asarray(Image.open(shared / "data/lfw_view1/images" / name).convert("RGB"))
        boxes = [crop_box(face.box, 250, 250, 32) for face in detector.detect(image)]
        expected = [int(value) for value in golden[name]]
        assert min(np.abs(np.subtract(box, expected)).max() for box in boxes) <= 1
