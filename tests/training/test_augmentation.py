"""Augmentation: each option alone against slow arithmetic, and any combination returns a crop of the right shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from facespace.training.augmentation import Augmentation

DRAWS = 200


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return noise without black pixels, so that a black border is visible."""
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3)).astype(np.uint8)


def smooth(side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    waves = [np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)]
    return np.stack([120 + 90 * wave for wave in waves], axis=2).astype(np.uint8)


def draws(augmentation: Augmentation, stored: np.ndarray, n: int = DRAWS) -> list[np.ndarray]:
    return [augmentation.apply(stored, np.random.default_rng(seed)) for seed in range(n)]


def window(stored: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """Return a square of a picture, copied pixel by pixel; black beyond its borders."""
    cut = np.zeros((side, side, 3), np.uint8)
    for y in range(side):
        for x in range(side):
            if 0 <= top + y < stored.shape[0] and 0 <= left + x < stored.shape[1]:
                cut[y, x] = stored[top + y, left + x]
    return cut


# Cut


def middle(have: int, want: int) -> int:
    """Return the offset of TensorFlow's resize_image_with_crop_or_pad, which rounds halves towards zero."""
    return (have - want) // 2 if have >= want else -((want - have) // 2)


@pytest.mark.parametrize("shape", [(9, 9), (12, 9), (9, 12), (13, 14), (6, 7), (5, 20), (20, 6), (1, 1), (1, 30)])
def test_cut_from_the_middle(shape: tuple[int, int]) -> None:
    stored = picture(*shape)
    cut = Augmentation(9).apply(stored, np.random.default_rng(0))
    np.testing.assert_array_equal(cut, window(stored, middle(shape[0], 9), middle(shape[1], 9), 9))


@pytest.mark.parametrize("shape", [(9, 9), (11, 9), (10, 12), (6, 11), (11, 4), (3, 3)])
def test_cut_from_anywhere(shape: tuple[int, int]) -> None:
    stored = picture(*shape)
    tops = range(shape[0] - 9 + 1) if shape[0] >= 9 else [middle(shape[0], 9)]
    lefts = range(shape[1] - 9 + 1) if shape[1] >= 9 else [middle(shape[1], 9)]
    windows = {window(stored, top, left, 9).tobytes() for top in tops for left in lefts}
    assert {cut.tobytes() for cut in draws(Augmentation(9, crop="random"), stored)} == windows


def test_what_is_cut_is_resized() -> None:
    ramp = np.repeat(np.arange(60, dtype=np.uint8)[None, :, None], 60, axis=0).repeat(3, axis=2)
    larger = Augmentation(40, crop_size=20).apply(ramp, np.random.default_rng(0))
    # Pixel x of 40 lies at (x + ½)/2 − ½ of the 20 from column 20 on.
    np.testing.assert_allclose(larger[7, 1:-1, 0], 20 + (np.arange(1, 39) + 0.5) / 2 - 0.5, atol=0.51)
    smaller = Augmentation(10, crop_size=40).apply(ramp, np.random.default_rng(0))
    np.testing.assert_allclose(smaller[3, 1:-1, 2], 10 + 4 * np.arange(1, 9) + 1.5, atol=0.51)
    same = Augmentation(20, crop_size=20).apply(ramp, np.random.default_rng(0))
    np.testing.assert_array_equal(same, ramp[20:40, 20:40])


# Rotation and flip


def test_rotation() -> None:
    stored = smooth(61)
    angles = []
    for turned in draws(Augmentation(61, rotate=20.0), stored, 60):
        best = min(np.arange(-24, 24.5, 0.5), key=lambda angle: mismatch(stored, turned, angle))
        assert mismatch(stored, turned, best) < 3
        angles.append(best)
    assert -20.5 <= min(angles) < -12
    assert 12 < max(angles) <= 20.5


def mismatch(stored: np.ndarray, turned: np.ndarray, degrees: float) -> float:
    """Return the mean difference, inside a circle, to the stored crop rotated anticlockwise by nearest pixels."""
    centre, angle = 30, math.radians(degrees)
    y, x = np.mgrid[-14:15:2, -14:15:2]
    from_x = np.rint(centre + x * math.cos(angle) - y * math.sin(angle)).astype(int)
    from_y = np.rint(centre + x * math.sin(angle) + y * math.cos(angle)).astype(int)
    return float(np.abs(turned[centre + y, centre + x].astype(int) - stored[from_y, from_x]).mean())


def test_rotation_comes_before_the_cut() -> None:
    """If the stored crop is larger than the cut, the black corners of the rotation stay outside."""
    white = np.full((100, 100, 3), 255, np.uint8)
    assert all(cut.min() == 255 for cut in draws(Augmentation(60, rotate=30.0), white, 40))
    assert any(cut.min() == 0 for cut in draws(Augmentation(100, rotate=30.0), white, 10))
    white[48:52, 48:52] = 0
    for cut in draws(Augmentation(100, crop="random", rotate=30.0), white, 20):  # rotation does not enlarge it
        assert cut[49:51, 49:51].max() == 0


def test_flip_is_half_of_the_time() -> None:
    stored = picture(8, 8)
    cuts = draws(Augmentation(8, flip=True), stored, 400)
    mirrored = [np.array_equal(cut, stored[:, ::-1]) for cut in cuts]
    assert all(flipped or np.array_equal(cut, stored) for flipped, cut in zip(mirrored, cuts, strict=True))
    assert 150 < sum(mirrored) < 250  # five standard deviations
    assert all(np.array_equal(cut, stored) for cut in draws(Augmentation(8), stored, 20))


# Degradations


def gray(pixels: np.ndarray) -> np.ndarray:
    return pixels @ np.array([0.299, 0.587, 0.114])


def colored(stored: np.ndarray, factors: tuple[float, float, float]) -> np.ndarray:
    pixels = np.clip(stored * factors[0], 0, 255)
    mean = gray(pixels).mean()
    pixels = np.clip(mean + factors[1] * (pixels - mean), 0, 255)
    light = gray(pixels)[..., None]
    return np.clip(light + factors[2] * (pixels - light), 0, 255)


def test_color() -> None:
    stored = smooth(24)
    seen = []
    for seed in range(60):
        cut = Augmentation(24, color=0.4).apply(stored, np.random.default_rng(seed))
        random = np.random.default_rng(seed)
        factors = (random.uniform(0.6, 1.4), random.uniform(0.6, 1.4), random.uniform(0.6, 1.4))
        np.testing.assert_allclose(cut, colored(stored, factors), atol=4)  # each of three steps is rounded
        seen.append(cut.mean() / stored.mean())
    assert min(seen) < 0.8
    assert max(seen) > 1.15


def share_changed(augmentation: Augmentation, stored: np.ndarray) -> float:
    return float(np.mean([not np.array_equal(cut, stored) for cut in draws(augmentation, stored, 400)]))


@pytest.mark.parametrize("name", ["low_resolution", "occlusion", "mask"])
def test_probabilities(name: str) -> None:
    options: Any = {name: 0.3}
    assert abs(share_changed(Augmentation(16, **options), picture(16, 16)) - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 400)
    options[name] = 1.0
    assert share_changed(Augmentation(16, **options), picture(16, 16)) == 1.0


def test_low_resolution_takes_away_detail_alone() -> None:
    once = Augmentation(64, low_resolution=1.0)
    assert all(np.abs(cut.astype(int) - smooth(64)).mean() < 15 for cut in draws(once, smooth(64), 40))
    noise = picture(64, 64)
    kept = [np.abs(np.diff(cut.astype(int), axis=1)).mean() for cut in draws(once, noise, 40)]
    assert max(kept) < 0.3 * np.abs(np.diff(noise.astype(int), axis=1)).mean()
    assert max(kept) > 4 * min(kept)  # the strength is drawn


def test_low_resolution_is_small_and_compressed_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    save = Image.Image.save

    def watched(image: Image.Image, file: Any, image_format: str, *, quality: int) -> None:
        saved.append((image.size, image_format, quality))
        save(image, file, image_format, quality=quality)

    monkeypatch.setattr(Image.Image, "save", watched)
    draws(Augmentation(64, low_resolution=1.0), smooth(64), 300)
    sides, qualities = {size[0] for size, _, _ in saved}, {quality for _, _, quality in saved}
    assert {image_format for _, image_format, _ in saved} == {"JPEG"}
    assert 16 <= min(sides) < 19
    assert 45 < max(sides) <= 48
    assert 30 <= min(qualities) < 34
    assert 86 < max(qualities) <= 90


def test_occlusion_is_a_rectangle_of_one_color() -> None:
    stored = np.full((50, 50, 3), 7, np.uint8)
    areas, slender, edges = [], [], set()
    for cut in draws(Augmentation(50, occlusion=1.0), stored):
        rows, columns = np.nonzero((cut != 7).any(2))
        top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        assert len(rows) == (bottom - top) * (right - left)
        assert len(np.unique(cut[top:bottom, left:right].reshape(-1, 3), axis=0)) == 1
        areas.append(len(rows) / 2500)
        slender.append((bottom - top) / (right - left))
        edges |= {top, left, bottom, right} & {0, 50}
    assert 0.015 < min(areas) < 0.03
    assert 0.18 < max(areas) < 0.21
    assert 0.2 < min(slender) < 0.5
    assert 2.5 < max(slender) < 5
    assert edges == {0, 50}


def test_mask_covers_nose_and_mouth_alone() -> None:
    side = 100
    stored = picture(side, side)
    colors = set()
    for cut in draws(Augmentation(side, mask=1.0), stored, 60):
        painted = (cut != stored).any(2)
        covered = cut[60:90, 40:60].reshape(-1, 3)  # mouth and the tip of the nose
        assert len(np.unique(covered, axis=0)) == 1
        assert not painted[:43].any()  # eyes
        assert not painted[:, :10].any()
        assert not painted[:, 90:].any()
        assert 0.2 < painted.mean() < 0.4
        assert len(np.unique(cut[painted], axis=0)) == 1
        colors.add(tuple(covered[0]))
    assert len(colors) > 50


# Together


def test_the_order_is_as_documented() -> None:
    """The mask is applied last: it hides occlusions, and low resolution does not blur its edge."""
    stored = picture(80, 80)
    everything = Augmentation(80, flip=True, color=0.5, low_resolution=1.0, occlusion=1.0, mask=1.0)
    for cut in draws(everything, stored, 30):
        assert len(np.unique(cut[48:72, 32:48].reshape(-1, 3), axis=0)) == 1
    for cut in draws(Augmentation(80, low_resolution=1.0, occlusion=1.0), np.full((80, 80, 3), 100, np.uint8), 30):
        assert len(np.unique(cut.reshape(-1, 3), axis=0)) == 2  # a compressed edge would have more colours


OPTIONS = st.fixed_dictionaries(
    {
        "size": st.integers(1, 40),
        "crop_size": st.none() | st.integers(1, 50),
        "crop": st.sampled_from(["center", "random"]),
        "rotate": st.sampled_from([0.0, 1e-9, 10.0, 180.0]),
        "flip": st.booleans(),
        "color": st.sampled_from([0.0, 0.3, 1.0]),
        "low_resolution": st.sampled_from([0.0, 0.5, 1.0]),
        "occlusion": st.sampled_from([0.0, 1.0]),
        "mask": st.sampled_from([0.0, 1.0]),
    }
)


@settings(max_examples=120, deadline=None)
@given(
    options=OPTIONS, height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 99), turned=st.booleans()
)
def test_any_combination_of_options(options: dict[str, Any], height: int, width: int, seed: int, turned: bool) -> None:
    stored = picture(width, height).swapaxes(0, 1) if turned else picture(height, width)
    stored.setflags(write=False)
    augmentation = Augmentation(**options)
    cut = augmentation.apply(stored, np.random.default_rng(seed))
    assert cut.shape == (options["size"], options["size"], 3)
    assert cut.dtype == np.uint8
    assert cut.flags.c_contiguous
    np.testing.assert_array_equal(cut, augmentation.apply(stored.copy(), np.random.default_rng(seed)))


def test_draws_come_from_the_generator_alone() -> None:
    stored = picture(30, 30)
    everything = Augmentation(
        24, crop="random", rotate=10, flip=True, color=0.3, low_resolution=0.5, occlusion=0.5, mask=0.5
    )
    np.random.seed(0)
    first = [cut.tobytes() for cut in draws(everything, stored, 30)]
    np.random.seed(1)
    assert first == [cut.tobytes() for cut in draws(everything, stored, 30)]
    assert len(set(first)) == 30


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"crop": "middle"}, "crop must be center or random, got 'middle'"),
        ({"rotate": 181}, "rotate must be 0 to 180, got 181"),
        ({"rotate": -1}, "rotate must be 0 to 180"),
        ({"color": 1.1}, "color must be 0 to 1"),
        ({"low_resolution": 2}, "low_resolution must be 0 to 1"),
        ({"occlusion": math.nan}, "occlusion must be 0 to 1, got nan"),
        ({"mask": -0.1}, "mask must be 0 to 1"),
        ({"size": 0}, "size must be 1 to 4096 pixels, got 0"),
        ({"crop_size": 5000}, "crop_size must be 1 to 4096 pixels, got 5000"),
        ({"crop_size": 0}, "crop_size must be 1 to 4096 pixels, got 0"),
    ],
)
def test_invalid_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Augmentation(**{"size": 8, **options})
