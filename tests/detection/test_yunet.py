"""YuNet: golden faces of OpenCV, all sizes of faces and photos, and each part alone."""

from __future__ import annotations

import json
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace import Face
from facespace.detection import yunet as module
from facespace.detection.yunet import YuNet, _batches, _Found, _means, _merged, _Search, _share_inside, _suppressed
from facespace.faces.face import overlaps
from facespace.runtime.onnx_network import OnnxNetwork


@pytest.fixture(scope="module")
def yunet() -> YuNet:
    return YuNet()


def iou(one: object, other: object) -> float:
    return float(overlaps(np.array([one]), np.array([other]))[0, 0])


def resized(image: np.ndarray, factor: float) -> np.ndarray:
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def boxes_of(faces: list[Face]) -> np.ndarray:
    return np.array([face.box for face in faces]).reshape(-1, 4)


def assert_same(found: list[Face], expected: list[Face]) -> None:
    """Check that faces are the same and in the same order, up to rounding of float32."""
    assert len(found) == len(expected)
    np.testing.assert_allclose(boxes_of(found), boxes_of(expected), atol=0.01)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.landmarks, other.landmarks, atol=0.01)
        assert one.score == pytest.approx(other.score, abs=1e-4)


@pytest.fixture(scope="module")
def crowd(hopper: np.ndarray, collins_file: Path) -> np.ndarray:
    """Three faces on gray: 170, 60 and 40 px wide."""
    image = np.full((640, 960, 3), 127, np.uint8)
    image[:600, :512] = hopper
    for top, left, part in (
        (20, 600, resized(facespace.read(collins_file), 0.65)),
        (400, 600, resized(hopper, 40 / 170)),
    ):
        image[top : top + part.shape[0], left : left + part.shape[1]] = part
    return image


# --- golden faces -----------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_it_finds_the_golden_faces_and_no_others(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden faces are those of `cv2.FaceDetectorYN` from score 0.6 on, which searches once and at full size."""
    yunet = YuNet(min_score=0.6)
    golden = json.loads((shared / "golden" / "opencv" / "yunet.json").read_text())["images"]
    photos = [shared / "data" / photo["image"] for photo in golden]
    monkeypatch.setattr(module, "_CERTAIN", 0.0)
    placed = yunet.detect_many(photos)
    monkeypatch.setattr(module, "_SMALL_FACE", 0.0)
    found = yunet.detect_many(photos)
    monkeypatch.undo()
    kept = yunet.detect_many(photos)
    n_golden = 0
    for photo, faces in zip(golden, found, strict=True):
        expected = photo["faces"]
        n_golden += len(expected)
        assert len(faces) == len(expected), photo["image"]
        common = overlaps(np.array([face["box"] for face in expected]), boxes_of(faces))
        assert common.max(axis=1).min() > 0.99, photo["image"]
        nearest = common.argmax(axis=1)
        assert len(set(nearest)) == len(faces)
        for face, k in zip(expected, nearest, strict=True):
            np.testing.assert_allclose(faces[k].landmarks, face["landmarks"], atol=0.2)
            assert faces[k].score == pytest.approx(face["score"], abs=1e-3)
    assert n_golden == 139
    # Patches change only the landmarks of small faces, and only a little.
    steps = []
    for faces, moved in zip(found, placed, strict=True):
        np.testing.assert_allclose(boxes_of(moved), boxes_of(faces), atol=0.01)
        for face, other in zip(faces, moved, strict=True):
            side = max(face.width, face.height)
            steps.append(np.abs(np.subtract(other.landmarks, face.landmarks)).max() / side)
            assert steps[-1] < (1e-3 if side > 36 else 0.25)
    small = [step for step in steps if step > 1e-3]
    assert len(small) == 4 and np.median(small) < 0.1
    # All faces from 0.7 on are confirmed on their patch.
    left_out = [
        face.score
        for faces, others in zip(placed, kept, strict=True)
        for face in faces
        if not (overlaps(np.array([face.box]), boxes_of(others)) > 0.99).any()
    ]
    assert max(left_out, default=0) < 0.7 and len(left_out) <= 3, left_out


# --- sizes of faces and photos ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [60, 150, 350, 400, 450, 700, 1400])
def test_a_face_of_any_size_is_found_once(yunet: YuNet, hopper: np.ndarray, side: int) -> None:
    (face,) = yunet.detect(hopper)
    image = resized(hopper, side / face.width)
    (found,) = yunet.detect(image)
    scale = np.tile([image.shape[1] / hopper.shape[1], image.shape[0] / hopper.shape[0]], 2)
    assert iou(found.box, np.array(face.box) * scale) > 0.7
    points = np.array(face.landmarks) * scale[:2]
    assert np.abs(found.landmarks - points).max() < 0.1 * side


def test_large_faces_are_not_found_at_full_size_alone(hopper: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """This is why there is a second search: at full size at most a part of the face is found."""
    (face,) = YuNet().detect(hopper)
    monkeypatch.setattr(module, "_ROOM_FOR_LARGE", math.inf)
    scale = 740 / 170
    assert all(iou(found.box, np.multiply(face.box, scale)) < 0.4 for found in YuNet().detect(resized(hopper, scale)))


def test_a_photo_of_more_than_six_megapixels(yunet: YuNet, hopper: np.ndarray) -> None:
    (face,) = yunet.detect(hopper)
    image = np.full((2600, 3200, 3), 127, np.uint8)
    image[1500:2100, 2000:2512] = hopper
    full, reduced = yunet._searches(0, image)
    assert 2_800_000 < full.size[0] * full.size[1] <= 2_860_000
    assert min(reduced.size) == 180
    (found,) = yunet.detect(image)
    assert iou(found.box, np.add(face.box, [2000, 1500, 2000, 1500])) > 0.85


@pytest.mark.parametrize("size", [(1, 20_000_000), (100_000_000, 2), (16, 65_535), (40, 65_535)])
@pytest.mark.parametrize("min_size", [2, 20])
def test_a_thin_photo_takes_no_more_memory_than_others(size: tuple[int, int], min_size: float) -> None:
    """The network gets blocks of 32 x 32 pixels, so a single line of pixels is padded to 32."""
    pixels = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (*size, 3))
    for search in YuNet(min_size=min_size)._searches(0, pixels):
        assert search.padded[0] * search.padded[1] < 2 * 6_000_000


@pytest.mark.parametrize(
    ("size", "min_size", "expected"),
    [
        ((600, 512), 20, 1),
        ((2400, 2500), 20, 1),
        ((3000, 4000), 20, 0.488),
        ((3000, 4000), 40, 0.488),
        ((3000, 4000), 80, 0.25),
    ],
)
def test_the_scale_at_which_a_photo_may_be_decoded(size: tuple[int, int], min_size: float, expected: float) -> None:
    assert YuNet(min_size=min_size).least_scale(*size) == pytest.approx(expected, abs=0.001)


def test_a_reduced_photo_has_the_faces_of_the_full_one(yunet: YuNet, hopper: np.ndarray) -> None:
    image = np.full((3000, 4000, 3), 127, np.uint8)
    image[1504:2104, 2000:2512] = hopper
    (full,) = yunet.detect(image)
    reduced = np.asarray(Image.fromarray(image).reduce(2))
    (found,) = yunet.detect_reduced([reduced], [2])[0]
    assert iou(full.box, np.multiply(found.box, 2)) > 0.85
    np.testing.assert_allclose(np.multiply(found.landmarks, 2), full.landmarks, atol=12)


def test_a_small_candidate_becomes_a_face_if_its_patch_score_is_high(
    hopper: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A face of 24 px in 12 megapixels is too small for the downscaled search; box and score are those of the patch."""
    image = np.full((3000, 4000, 3), 127, np.uint8)
    small = resized(hopper, 0.12)
    places = [(y, x) for y in range(200, 2800, 400) for x in range(200, 3800, 400)]
    for y, x in places:
        image[y : y + small.shape[0], x : x + small.shape[1]] = small
    found = YuNet().detect(image)
    assert len(found) > 0.9 * len(places) and all(face.score >= 0.6 for face in found)
    boxes = boxes_of(found)
    assert (overlaps(boxes, boxes) > 0.3).sum() == len(boxes)
    monkeypatch.setattr(module, "_CANDIDATE", 0.6)
    assert len(YuNet().detect(image)) < len(found) / 2
    monkeypatch.setattr(module, "_CANDIDATE", 0.15)
    monkeypatch.setattr(module, "_PROMOTED", 0.999)
    assert len(YuNet().detect(image)) < len(found) / 2


def test_a_smaller_min_size_finds_smaller_faces(hopper: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TINY_PHOTO", 0.0)  # as in a large photo
    small = resized(hopper, 8 / 170)
    assert YuNet().detect(small) == []
    for min_size in (2, 5):
        (found,) = YuNet(min_size=min_size).detect(small)
        assert 7 < found.width < 10


def test_a_larger_min_size_finds_fewer_and_the_large_ones_all_the_same(crowd: np.ndarray, yunet: YuNet) -> None:
    everybody = sorted(face.width for face in yunet.detect(crowd))
    np.testing.assert_allclose(everybody, [41, 60, 170], atol=8)
    (large,) = YuNet(min_size=160).detect(crowd)
    assert large.width == pytest.approx(everybody[-1], rel=0.12)
    assert YuNet(min_size=1000).detect(crowd) == []


def test_faces_of_less_than_most_of_min_size_are_not_reported(
    crowd: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network finds some of them nevertheless."""
    detector = YuNet(min_size=90, min_score=0.3)
    monkeypatch.setattr(module, "_REPORTED", 0.7)
    reported = detector.detect(crowd)
    monkeypatch.setattr(module, "_REPORTED", 0.0)
    seen = detector.detect(crowd)
    assert len(reported) < len(seen) == 3
    sides = [max(face.width, face.height) for face in seen]
    assert [max(face.width, face.height) for face in reported] == [side for side in sides if side >= 63]


@pytest.mark.parametrize("side", [16, 25, 40])
def test_landmarks_of_small_faces_are_better_on_patches(
    yunet: YuNet, hopper: np.ndarray, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    """Compared with the landmarks in the photo before downscaling, over several positions of the face."""
    monkeypatch.setattr(module, "_TINY_PHOTO", 0.0)  # as in a large photo
    (face,) = yunet.detect(hopper)
    errors: dict[float, list[float]] = {99.0: [], 0.0: []}
    for left, top in ((0, 0), (5, 3), (11, 20), (30, 9), (43, 31), (60, 50)):
        image = resized(hopper[top:, left:], side / face.width)
        for small_face, of_size in errors.items():
            monkeypatch.setattr(module, "_SMALL_FACE", small_face)
            (found,) = yunet.detect(image)
            expected = np.subtract(face.landmarks, [left, top]) * side / face.width
            of_size.append(np.abs(found.landmarks - expected).mean() / side)
    assert np.mean(errors[99.0]) < 0.04
    assert np.mean(errors[99.0]) < 0.9 * np.mean(errors[0.0])


def test_more_small_faces_than_fit_in_one_batch_of_patches(yunet: YuNet, hopper: np.ndarray) -> None:
    """Equal faces at distances of multiples of 32 pixels have equal landmarks in any batch."""
    part = resized(hopper[64:448, 64:448], 1 / 6)  # 64 x 64, a face of 28 x 35
    faces = yunet.detect(np.tile(part, (4, 5, 1)))
    assert len(faces) == 20 > module._PATCHES
    corners = np.array([face.box[:2] for face in faces]) // 64 * 64
    assert len({tuple(corner) for corner in corners}) == 20
    points = np.array([face.landmarks for face in faces]) - corners[:, None]
    assert np.abs(points - points.mean(axis=0)).max() < 2


@pytest.mark.parametrize(
    ("size", "min_size", "expected"),
    [
        ((200, 160), 20, [(200, 160)]),
        ((200, 160), 40, [(100, 80)]),
        ((200, 160), 10, [(400, 320)]),
        ((100, 80), 20, [(160, 128)]),  # a thumbnail is enlarged
        ((40, 30), 20, [(120, 90)]),  # at most three times
        ((5, 3), 200, [(2, 1)]),
        ((1000, 800), 20, [(1000, 800), (225, 180)]),
        ((480, 900), 20, [(480, 900)]),
        ((481, 900), 20, [(481, 900), (180, 337)]),
        ((1000, 800), 60, [(333, 267)]),  # too small for large faces at that size
        ((300, 60), 2, [(3000, 600), (900, 180)]),
        ((3000, 40), 20, [(3000, 40)]),
    ],
)
def test_the_scale_of_a_search(size: tuple[int, int], min_size: float, expected: list[tuple[int, int]]) -> None:
    pixels = np.zeros((*size, 3), np.uint8)
    searches = YuNet(min_size=min_size)._searches(7, pixels)
    assert [search.size for search in searches] == expected
    for search in searches:
        assert search.photo == 7
        assert search.resized().shape == (*search.size, 3)
        assert search.scale.tolist() == [search.size[1] / size[1], search.size[0] / size[0]]
    # The smallest face in the photo's pixels: a fraction of min_size, and in the second search 400 px of the first.
    wanted_sides = [module._REPORTED * min_size, 400 * min_size / 20]
    assert [search.min_side for search in searches] == wanted_sides[: len(searches)]
    assert 0 < module._REPORTED < 1


@pytest.mark.parametrize("min_size", [1, 1.99, 0, -20, math.nan])
def test_an_invalid_min_size(min_size: float) -> None:
    with pytest.raises(ValueError, match=f"^min_size must be at least 2 pixels, got {min_size}$"):
        YuNet(min_size=min_size)


def test_min_score_is_the_lowest_score_of_a_face(hopper: np.ndarray) -> None:
    """A face much smaller than `min_size` is found with a low score."""
    image = resized(hopper, 100 / 170)
    (unsure,) = YuNet(min_size=160, min_score=0.3).detect(image)
    assert 0.4 < unsure.score < 0.9
    below, above = unsure.score - 0.01, unsure.score + 0.01
    assert len(YuNet(min_size=160, min_score=below).detect(image)) == 1
    assert YuNet(min_size=160, min_score=above).detect(image) == []


@pytest.mark.parametrize("min_score", [0, 1, -0.5, 70, math.nan])
def test_an_invalid_min_score(min_score: float) -> None:
    with pytest.raises(ValueError, match=f"^min_score must be between 0 and 1, got {min_score}$"):
        YuNet(min_score=min_score)


# --- one and many -----------------------------------------------------------------------------------------------------


def test_many_of_all_sizes_give_the_same_as_one_by_one(yunet: YuNet, crowd: np.ndarray, hopper: np.ndarray) -> None:
    """Photos of one padded size share a batch even if their own sizes differ; large ones use all cores."""
    random = np.random.default_rng(0)
    sizes = [(1, 1), (5, 7), (3000, 40), (40, 3000)]
    images = [random.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
    near = [resized(hopper, 0.4)[k % 5 :, k % 3 :] for k in range(12)]  # 240 x 205: all become 256 x 224
    assert len({image.shape for image in near}) > 1 and len({searched_as(image).padded for image in near}) == 1
    images += [crowd, *near[:6], resized(hopper, 3), crowd[:, ::-1], *near[6:], hopper]
    found = yunet.detect_many(iter(images))
    assert [len(faces) for faces in found] == [0, 0, 0, 0, 3, *[1] * 6, 1, 3, *[1] * 6, 1]
    for image, faces in zip(images, found, strict=True):
        assert_same(faces, yunet.detect(image))


def test_the_best_score_comes_first(yunet: YuNet, crowd: np.ndarray) -> None:
    for image in (crowd, crowd[:, ::-1], resized(crowd, 1.7)):
        scores = [face.score for face in yunet.detect(image)]
        assert len(scores) == 3
        assert scores == sorted(scores, reverse=True)


def test_a_picture_that_moves_by_whole_cells_gives_the_same_faces(yunet: YuNet, hopper: np.ndarray) -> None:
    """Cells have up to 32 pixels: after other shifts the landmarks of a face differ by a few percent of its size."""
    (face,) = yunet.detect(hopper)
    for down, right, atol in ((32, 64, 0.01), (30, 70, 0.05 * face.width), (8, 8, 0.05 * face.width)):
        (moved,) = yunet.detect(np.pad(hopper, ((down, 0), (right, 0), (0, 0))))
        np.testing.assert_allclose(np.array(moved.landmarks) - face.landmarks, [[right, down]] * 5, atol=atol)


def test_threads_can_share_it(yunet: YuNet, crowd: np.ndarray) -> None:
    expected = yunet.detect(crowd)
    with ThreadPoolExecutor(4) as pool:
        for faces in pool.map(yunet.detect, [crowd] * 6):
            assert_same(faces, expected)
        for faces, others in pool.map(yunet.detect_many, [[crowd, crowd[:400]]] * 4):
            assert_same(faces, expected)
            assert len(others) == 2


def test_a_pickle_contains_the_options(hopper: np.ndarray) -> None:
    class Own(YuNet):
        pass

    data = pickle.dumps(YuNet(min_size=33, min_score=0.8, device="cpu"))
    assert len(data) < 1000
    again = pickle.loads(data)
    assert (type(again), again.min_size, again.min_score, again._device) == (YuNet, 33, 0.8, "cpu")
    create, options = Own(min_size=44).__reduce__()
    assert type(create(*options)) is Own and create(*options).min_size == 44


def test_plain_onnx_runtime_computes_even_if_another_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACESPACE_RUNTIME", "openvino")
    assert YuNet().runtime == "onnxruntime"
    with pytest.raises(ValueError, match="device must be auto, cpu or cuda, got 'tpu'"):
        YuNet(device="tpu")


# --- its parts --------------------------------------------------------------------------------------------------------


def test_the_network_takes_any_number_of_photos_of_any_size() -> None:
    network = OnnxNetwork(module.yunet_network(), source="yunet", precision="float32", runtime="onnxruntime")
    assert network.takes_uint8
    assert list(network.outputs) == ["scores", "cells"]
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3)).astype(np.uint8)
    together = network.run(images)
    cells = 8 * 12 + 4 * 6 + 2 * 3
    assert [part.shape for part in together] == [(3, cells), (3, 14, cells)]
    for k in range(3):
        for part, alone in zip(together, network.run(images[k : k + 1]), strict=True):
            np.testing.assert_allclose(part[k], alone[0], rtol=1e-3, atol=1e-4)


class OneCell:
    """Replaces the network: it gives high scores to a few cells, by number, of images of 64 x 96 pixels."""

    def __init__(self, *cells: tuple[int, float, list[float], list[float]]) -> None:
        self.cells = cells

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        assert images.shape == (1, 64, 96, 3)
        scores, numbers = np.zeros((1, 126), np.float32), np.zeros((1, 14, 126), np.float32)
        for cell, score, box, points in self.cells:
            scores[0, cell] = score
            numbers[0, :, cell] = [*box, *points]
        return [scores, numbers]


@pytest.mark.parametrize(
    ("first", "columns", "stride"), [(0, 12, 8), (96, 6, 16), (120, 3, 32)], ids=["8 px", "16 px", "32 px"]
)
def test_cells_are_decoded_as_in_the_paper(yunet: YuNet, first: int, columns: int, stride: int) -> None:
    """The third cell of the second row: centre, size and points in pixels of a photo that was downscaled."""
    points = [0.5, -0.25, 1, 0, 0, 1, -1, -1, 2, 3]
    cell = (first + columns + 2, 0.9, [0.25, 0.5, math.log(2), math.log(3)], points)
    search = _Search(0, np.zeros((240, 140, 3), np.uint8), (60, 70), 0.0)
    (found,) = yunet._run(OneCell(cell, (5, yunet.min_score - 0.01, [0, 0, 0, 0], points)), [search])
    centre = np.array([(2 + 0.25) * stride / 0.5, (1 + 0.5) * stride / 0.25])
    half = np.array([2 * stride / 0.5, 3 * stride / 0.25]) / 2
    np.testing.assert_allclose(found.boxes, [[*(centre - half), *(centre + half)]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.9], rtol=1e-6)
    expected = [[(2 + x) * stride / 0.5, (1 + y) * stride / 0.25] for x, y in np.reshape(points, (5, 2))]
    np.testing.assert_allclose(found.landmarks, [expected], rtol=1e-6)


def test_cells_without_a_valid_face_are_left_out(yunet: YuNet) -> None:
    """These are boxes that are not finite, empty or too small for the search, and landmarks that are not finite."""
    zeros = [0.0] * 10
    cells = [
        (0, 0.9, [0, 0, math.nan, 0], zeros),
        (1, 0.9, [0, math.inf, 0, 0], zeros),
        (2, 0.9, [0, 0, -800, 0], zeros),
        (6, 0.9, [0, 0, 0, 0], [math.inf, *zeros[1:]]),
        (3, 0.9, [0, 0, 0, 0], zeros),  # 8 x 8
        (4, 0.9, [0, 0, 0, math.log(2)], zeros),  # 8 x 16
    ]
    for min_side, expected in ((0, 2), (8, 2), (8.1, 1), (16.1, 0)):
        search = _Search(0, np.zeros((64, 96, 3), np.uint8), (64, 96), min_side)
        (found,) = yunet._run(OneCell(*cells), [search])
        assert [len(part) for part in found] == [expected] * 4


class Patches:
    """Replaces the network: the same candidates on each patch, by cell (stride 16), score, size and points."""

    def __init__(self, *candidates: tuple[int, float, tuple[float, float], list[float]]) -> None:
        self.candidates, self.seen = candidates, []

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        self.seen.append(images)
        assert images.shape[1:] == (128, 128, 3)
        scores, numbers = np.zeros((len(images), 336), np.float32), np.zeros((len(images), 14, 336), np.float32)
        for cell, score, size, points in self.candidates:
            scores[:, 256 + cell] = score
            numbers[:, 2:4, 256 + cell] = np.log(np.array(size) / 16)
            numbers[:, 4:, 256 + cell] = points
        return [scores, numbers]


MIDDLE = 4 * 8 + 4  # the cell whose corner is the middle of a patch
POINTS = [0.0, 0, 1, 0, 0.5, 1, 0, 2, 1, 2]
FIRST = np.full((5, 2), 7.0)
# A face of 24 x 30 px is enlarged 2.4 times, so a patch covers 53.3 px of the photo.
ON_PATCH = (np.reshape(POINTS, (5, 2)) + 4) * 16 / 2.4 + [112 - 64 / 2.4, 65 - 64 / 2.4]
OTHERS = [0.0] * 10


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        pytest.param([], FIRST, id="nothing"),
        pytest.param([(MIDDLE, 0.31, (57.6, 72), POINTS)], ON_PATCH, id="the face, however unsure"),
        pytest.param([(MIDDLE, 0.29, (57.6, 72), POINTS)], FIRST, id="too unsure"),
        pytest.param([(MIDDLE, 0.9, (28, 36), POINTS)], FIRST, id="too small to be it"),
        pytest.param([(0, 0.9, (57.6, 72), POINTS)], FIRST, id="another face"),
        pytest.param(
            [(0, 0.9, (57.6, 72), OTHERS), (MIDDLE, 0.8, (57.6, 72), POINTS), (MIDDLE + 1, 0.7, (57, 72), OTHERS)],
            ON_PATCH,
            id="the best of the matching ones",
        ),
        pytest.param(
            [(MIDDLE, 0.8, (57.6, 72), POINTS), (MIDDLE, 0.4, (57.6, 72), POINTS)],
            ON_PATCH,
            id="the same face twice",
        ),
    ],
)
def test_landmarks_on_a_patch_are_mapped_to_the_photo(candidates: list, expected: np.ndarray) -> None:
    detector = YuNet(min_score=0.6)
    detector._one_core = Patches(*candidates)
    found = _Found(np.array([[100.0, 50, 124, 80]]), np.array([0.8]), FIRST[None].copy(), FIRST[None].copy())
    (placed,) = detector._refined([np.zeros((200, 300, 3), np.uint8)], [found])
    np.testing.assert_allclose(placed.landmarks, [expected], rtol=1e-6)
    np.testing.assert_allclose(placed.crop_points, [expected], rtol=1e-6)
    assert (found.landmarks == 7).all(), "the input is not changed"


def test_patches_show_small_faces_enlarged_and_black_beyond_the_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red is the column, green the row of a photo; a face of 32 px is enlarged 2.25 times, one of 36 px is not."""
    monkeypatch.setattr(module, "usable_cores", lambda: 1)
    detector = YuNet()
    detector._one_core = patches = Patches()
    pixels = np.zeros((100, 120, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(120), np.arange(100)[:, None]
    boxes = np.array([[44.0, 34, 76, 66], [0, 0, 20, 32], [20, 20, 56, 56]])
    detector._refined([pixels], [_Found(boxes, np.ones(3), *np.zeros((2, 3, 5, 2)))])
    ((inside, corner),) = patches.seen
    # The centre (60, 50) of the first box is that of the patch, which covers 57 x 57 pixels of the photo.
    middle = (np.arange(128) - 63.5) / 2.25
    np.testing.assert_allclose(inside[64, :, 0], 60 + middle - 0.5, atol=1)
    np.testing.assert_allclose(inside[:, 64, 1], 50 + middle - 0.5, atol=1)
    # The centre of the second is (10, 16): the patch begins 18 pixels left of the photo and 12 above it.
    assert not corner[:26].any() and not corner[:, :40].any()
    np.testing.assert_allclose(corner[64, 44:, 0], 10 + middle[44:] - 0.5, atol=1)


@pytest.mark.parametrize(
    ("score", "seen", "size", "min_score", "kept"),
    [
        pytest.param(0.79, 0.41, (57.6, 72), 0.6, True, id="seen again"),
        pytest.param(0.79, 0.39, (57.6, 72), 0.6, False, id="not sure enough"),
        pytest.param(0.79, 0.9, (28, 36), 0.6, False, id="a part of it is seen"),
        pytest.param(0.80, 0.0, (57.6, 72), 0.6, True, id="sure at once"),
        pytest.param(0.40, 0.36, (57.6, 72), 0.35, True, id="unsure faces are asked for"),
        pytest.param(0.40, 0.34, (57.6, 72), 0.35, False, id="too unsure for that"),
    ],
)
@pytest.mark.parametrize("side", [30, 90, 600])
def test_an_uncertain_face_must_be_confirmed_on_a_patch(
    score: float, seen: float, size: tuple[float, float], min_score: float, kept: bool, side: int
) -> None:
    """This applies to any size; the landmarks of large faces stay those of the search."""
    detector = YuNet(min_score=min_score)
    detector._one_core = Patches((MIDDLE, seen, size, POINTS))
    boxes = np.array([[100.0, 50, 100 + 0.8 * side, 50 + side], [150, 60, 190, 100]])
    found = _Found(boxes, np.array([score, 0.9]), *np.array([FIRST, FIRST])[None].repeat(2, axis=0))
    (placed,) = detector._refined([np.zeros((900, 900, 3), np.uint8)], [found])
    assert placed.scores.tolist() == ([score, 0.9] if kept else [0.9])
    if side > 36:
        assert (placed.landmarks == 7).all() and (placed.crop_points == 7).all()


def test_landmarks_are_the_mean_over_the_cells_that_detect_the_face() -> None:
    """The mean is weighted by scores; cells that detect another face or only a part of it are not included."""
    box = np.array([10.0, 10, 50, 60])
    seen = _Found(
        np.array([box, box + 1, [0, 0, 9, 9], [12, 12, 40, 50]]),
        np.array([0.9, 0.88, 0.95, 0.8]),
        *[np.array([np.full((5, 2), value) for value in (20.0, 26, 99, 99)])] * 2,
    )
    weight = (0.88 / 0.9) ** module._VOTE_POWER
    assert 0.1 < weight < 0.5
    np.testing.assert_allclose(_means(seen, np.array([0])), np.full((1, 5, 2), (20 + 26 * weight) / (1 + weight)))


@pytest.mark.parametrize(("n_faces", "n_cores", "sizes"), [(5, 2, [2, 3]), (1, 4, [1]), (20, 2, [4, 8, 8])])
def test_each_core_gets_its_share_of_the_patches(
    monkeypatch: pytest.MonkeyPatch, n_faces: int, n_cores: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: n_cores)
    detector = YuNet()
    detector._one_core = patches = Patches()
    found = _Found(np.tile([100.0, 50, 124, 80], (n_faces, 1)), np.ones(n_faces), *np.zeros((2, n_faces, 5, 2)))
    detector._refined([np.zeros((200, 300, 3), np.uint8)], [found])
    assert sorted(len(images) for images in patches.seen) == sizes


@pytest.mark.parametrize(("height", "width"), [(400, 560), (1000, 900), (640, 640)])
def test_a_much_downscaled_photo_shows_the_same(height: int, width: int) -> None:
    """Rows are skipped first; a gradient of gray keeps its position."""
    slope = np.empty((height, width, 3), np.uint8)
    slope[..., 0], slope[..., 1] = np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None]
    slope[..., 2] = 77
    small = _Search(0, slope, (100, 120), 20).resized().astype(float)
    np.testing.assert_allclose(small[..., 0], np.broadcast_to((np.arange(120) + 0.5) * 255 / 120, (100, 120)), atol=1.6)
    np.testing.assert_allclose(
        small[..., 1], np.broadcast_to((np.arange(100)[:, None] + 0.5) * 2.55, (100, 120)), atol=2
    )
    assert (small[..., 2] == 77).all()


def test_a_face_of_a_photo_searched_smaller_is_small_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_PIXELS", 100 * 100)
    detector = YuNet()
    found = _Found(np.array([[100.0, 100, 150, 160]]), np.ones(1), *np.zeros((2, 1, 5, 2)))
    for side, n_patches in ((200, 1), (150, 0)):  # 60 px correspond to 30 and 40
        detector._one_core = patches = Patches()
        detector._refined([np.zeros((side, side, 3), np.uint8)], [found])
        assert len(patches.seen) == n_patches


def test_without_small_faces_there_are_no_patches() -> None:
    detector = YuNet()
    detector._one_core = None
    for faces in ([], [(BOX, 0.9), (FAR, 0.8)]):
        found = found_of(*faces)
        (placed,) = detector._refined([np.zeros((90, 90, 3), np.uint8)], [found])
        np.testing.assert_array_equal(placed.landmarks, found.landmarks)


def found_of(*faces: tuple[list[float], float]) -> _Found:
    """Boxes with scores; the landmarks identify the faces."""
    boxes = np.array([box for box, _ in faces], np.float64).reshape(-1, 4)
    scores = np.array([score for _, score in faces], np.float64)
    return _Found(boxes, scores, *[np.repeat(scores, 10).reshape(-1, 5, 2)] * 2)


BOX, NEAR, INSIDE, FAR = [0, 0, 100, 100], [5, 5, 105, 105], [10, 10, 40, 40], [300, 0, 400, 100]


@pytest.mark.parametrize(
    ("full", "large", "expected"),
    [
        pytest.param([], [], [], id="nothing"),
        pytest.param([(BOX, 0.8)], [], [0.8], id="the full search alone"),
        pytest.param([], [(BOX, 0.8)], [0.8], id="the other alone"),
        pytest.param([(BOX, 0.8)], [(FAR, 0.9)], [0.8, 0.9], id="two faces"),
        pytest.param([(BOX, 0.8)], [(NEAR, 0.9)], [0.9], id="the surer"),
        pytest.param([(BOX, 0.8)], [(NEAR, 0.75)], [0.8], id="the surer, the other way"),
        pytest.param([(BOX, 0.89)], [(NEAR, 0.95)], [0.89], id="the one placed better"),
        pytest.param([(INSIDE, 0.8)], [(BOX, 0.9)], [0.9], id="a part of a face"),
        pytest.param([(INSIDE, 0.9)], [(BOX, 0.95)], [0.95], id="a part that is sure of itself"),
        pytest.param([(INSIDE, 0.9)], [(BOX, 0.8)], [0.9, 0.8], id="a face before another"),
        pytest.param([(NEAR, 0.95), (INSIDE, 0.8)], [(BOX, 0.9)], [0.95, 0.8], id="a part of one that is gone"),
        pytest.param([([80, 80, 130, 130], 0.8)], [(BOX, 0.9)], [0.8, 0.9], id="a little overlap"),
    ],
)
def test_faces_of_both_searches_are_merged(full: list, large: list, expected: list[float]) -> None:
    merged = _merged(found_of(*full), found_of(*large))
    assert merged.scores.tolist() == expected
    assert merged.landmarks[:, 0, 0].tolist() == expected
    of_score = {score: box for box, score in [*full, *large]}
    assert merged.boxes.tolist() == [of_score[score] for score in expected]


def test_merged_faces_are_in_the_order_of_their_scores(yunet: YuNet) -> None:
    parts = [found_of((BOX, 0.9), ([0, 300, 100, 400], 0.8)), found_of((FAR, 0.95), ([300, 300, 400, 400], 0.85))]
    (faces,) = yunet._faces([np.zeros((400, 400, 3), np.uint8)], [parts])
    assert [face.score for face in faces] == [0.95, 0.9, 0.85, 0.8]
    assert [face.box for face in faces[:2]] == [tuple(FAR), tuple(BOX)]
    assert [face.landmarks[4][1] for face in faces] == [face.score for face in faces]


def test_the_share_of_a_box_inside_another_is_that_of_its_pixels() -> None:
    random = np.random.default_rng(0)
    corners = random.integers(0, 20, (12, 2))
    boxes = np.hstack([corners, corners + random.integers(1, 15, (12, 2))]).astype(np.float64)
    boxes, others = boxes[:5], boxes[5:]

    def pixels(box: np.ndarray) -> set[tuple[int, int]]:
        x1, y1, x2, y2 = box.astype(int)
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    expected = [[len(pixels(a) & pixels(b)) / len(pixels(a)) for b in others] for a in boxes]
    np.testing.assert_allclose(_share_inside(boxes, others), expected)
    assert 0 < np.mean(expected) < 1


def test_suppression_counts_no_end_pixels() -> None:
    """Two boxes of 2 px with IoU 0.29; with both ends counted it would be 0.46."""
    near = found_of(([0, 0, 2, 2], 0.8), ([1.1, 0, 3.1, 2], 0.9))
    assert _suppressed([near])[0].scores.tolist() == [0.9, 0.8]
    nearer = found_of(([0, 0, 2, 2], 0.8), ([1.0, 0, 3.0, 2], 0.9))
    assert _suppressed([nearer])[0].landmarks[:, 0, 0].tolist() == [0.9]
    (alike,) = _suppressed([found_of(([0, 0, 10, 10], 0.8), ([0, 0, 10, 9], 0.79))])
    assert alike.landmarks[:, 0, 0].tolist() == [0.8], "as in OpenCV"
    weight = (0.79 / 0.8) ** module._VOTE_POWER
    np.testing.assert_allclose(alike.crop_points, (0.8 + 0.79 * weight) / (1 + weight))
    assert len(_suppressed([found_of()])[0].scores) == 0


def searched_as(pixels: np.ndarray, photo: int = 0) -> _Search:
    return _Search(photo, pixels, pixels.shape[:2], 0.0)


def test_photos_are_padded_to_whole_cells() -> None:
    for size, expected in (((1, 1), (32, 32)), ((32, 33), (32, 64)), ((65, 64), (96, 64)), ((250, 31), (256, 32))):
        assert searched_as(np.zeros((*size, 3), np.uint8)).padded == expected


def test_batches_hold_searches_of_one_padded_size() -> None:
    small, odd, large = (np.zeros((*size, 3), np.uint8) for size in ((250, 250), (225, 256), (1000, 1000)))
    order = [small, large, odd, *[small] * 9, large]
    batches = list(_batches(searched_as(pixels, k) for k, pixels in enumerate(order)))
    assert [[search.photo for search in batch] for batch in batches] == [
        [0, 2, 3, 4, 5, 6, 7, 8, 9],  # nine of 256 x 256 pixels fit into 600,000
        [10, 11],
        [1],
        [12],
    ]
    assert list(_batches([])) == []


@pytest.mark.parametrize(
    ("sides", "n_together"),
    [
        ([100] * 4, 0),
        ([100, 300], 1),  # one core would compute the larger batch while the other is idle
        ([300, 290, 280], 0),
        ([2100, 2050, 2000], 2),  # too large to have two in memory
    ],
)
def test_each_core_computes_its_own_batch_unless_it_is_large(
    monkeypatch: pytest.MonkeyPatch, sides: list[int], n_together: int
) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 2)
    monkeypatch.setattr(module, "_ROOM_FOR_LARGE", math.inf)
    monkeypatch.setattr(module, "_BATCH_PIXELS", 1)
    detector = YuNet()
    computed: list[str] = []
    nothing = _Found(np.empty((0, 4)), np.empty(0), *np.empty((2, 0, 5, 2)))
    monkeypatch.setattr(detector, "_one_core", "one core")
    monkeypatch.setattr(YuNet, "_all_cores", "all cores")
    monkeypatch.setattr(detector, "_run", lambda cores, batch: computed.append(cores) or [nothing] * len(batch))
    assert detector.detect_many([np.zeros((side, side, 3), np.uint8) for side in sides]) == [[]] * len(sides)
    assert sorted(computed) == ["all cores"] * n_together + ["one core"] * (len(sides) - n_together)


def test_a_thumbnail_is_searched_enlarged(hopper: np.ndarray, yunet: YuNet) -> None:
    """Faces in a tiny photo are found as well as in a larger one."""
    tiny = np.asarray(Image.fromarray(hopper).resize((51, 60), Image.Resampling.LANCZOS))
    (face,) = yunet.detect(tiny)
    assert face.score > 0.8
    searches = yunet._searches(0, tiny)
    assert [search.size for search in searches] == [(160, 136)]
    assert yunet._searches(0, hopper)[0].size == hopper.shape[:2]
