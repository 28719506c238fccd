"""Copies of a photo, exact and edited, within one set and between two, compared with plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from facespace.curation import duplicates as duplicates_module
from facespace.curation.duplicates import Copy, copies_between, correlation, duplicates, group
from support.pictures import crowd, scene, thumb


def test_correlation_ignores_light_size_mirroring_and_shifts() -> None:
    one = scene(0)
    changed = {
        "darker": one.point(lambda value: value * 0.6 + 20),
        "small": one.resize((50, 50)).resize((160, 160)),
        "mirrored": one.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "moved": one.transform((160, 160), Image.Transform.AFFINE, (1, 0, 13, 0, 1, -20)),  # 2 and 3 of 24 pixels
    }
    r = {name: correlation(thumb(one)[None], thumb(picture)[None])[0] for name, picture in changed.items()}
    assert min(r["darker"], r["small"], r["mirrored"]) > 0.95, r
    assert r["moved"] > 0.8, r
    others = np.stack([thumb(scene(seed)) for seed in range(1, 60)])
    assert correlation(np.repeat(thumb(one)[None], 59, axis=0), others).max() < 0.7


def test_correlation_is_the_best_window_of_a_plain_loop() -> None:
    a, b = thumb(scene(5)).astype(float), thumb(scene(6)).astype(float)

    def shapes(picture: np.ndarray) -> np.ndarray:
        padded = np.pad(picture, 2, mode="edge")
        return np.array([[picture[y, x] - padded[y : y + 5, x : x + 5].mean() for x in range(24)] for y in range(24)])

    best = -1.0
    for turned in (shapes(b), shapes(b)[:, ::-1]):
        for y in range(7):
            for x in range(7):
                pair = shapes(a)[3:21, 3:21].ravel(), turned[y : y + 18, x : x + 18].ravel()
                best = max(best, np.corrcoef(*pair)[0, 1])
    assert correlation(a[None].astype(np.uint8), b[None].astype(np.uint8))[0] == pytest.approx(best, abs=1e-4)


def test_flat_pictures_are_not_copies_of_each_other() -> None:
    flat = np.full((2, 24, 24), 100, np.uint8)
    assert correlation(flat[:1], flat[1:] + 9).tolist() == [0]


def photos(n: int) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    embeddings, _ = crowd(n, 1)
    return embeddings, np.stack([thumb(scene(seed)) for seed in range(n)]), [b"%d" % index for index in range(n)]


def test_exact_copies_within_and_across() -> None:
    embeddings, thumbnails, digests = photos(6)
    for to in (1, 4, 5):
        embeddings[to], thumbnails[to], digests[to] = embeddings[0], thumbnails[0], digests[0]
    labels = np.array([0, 0, 0, 1, 1, 1])
    found = duplicates(embeddings, thumbnails, labels, digests)
    assert {(copy.first, copy.second, copy.exact) for copy in found} == {
        (0, 1, True), (0, 4, True), (4, 5, True), (0, 5, True),
    }  # fmt: skip


def test_near_copies_need_both_pixels_and_embedding() -> None:
    embeddings, thumbnails, digests = photos(8)
    embeddings[1], thumbnails[1] = embeddings[0], thumbnails[0][:, ::-1]  # a mirrored copy
    embeddings[3] = embeddings[2]  # the same person looks the same in another photo
    thumbnails[5] = thumbnails[4]  # another person in front of the same background
    found = duplicates(embeddings, thumbnails, np.arange(8), digests)
    assert [(copy.first, copy.second, copy.exact) for copy in found] == [(0, 1, False)]
    assert found[0].similarity == pytest.approx(1)
    assert found[0].correlation == pytest.approx(1, abs=1e-5)


def near(similarity: float, agreement: float, monkeypatch: pytest.MonkeyPatch) -> bool:
    embeddings = np.array([[1, 0], [similarity, (1 - similarity**2) ** 0.5]], np.float32)
    monkeypatch.setattr(duplicates_module, "correlation", lambda first, _: np.full(len(first), agreement))
    return bool(duplicates(embeddings, np.zeros((2, 24, 24), np.uint8), np.zeros(2, np.int64), [b"a", b"b"]))


def test_the_rule_of_near_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {(0.96, 0.71): True, (0.96, 0.69): False, (0.94, 0.94): False, (0.86, 0.96): True, (0.84, 0.99): False}
    assert {case: near(*case, monkeypatch) for case in cases} == cases


def test_blocks_and_crowds_do_not_hide_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, thumbnails, digests = photos(40)
    for to, of in ((39, 0), (20, 3), (21, 20)):
        embeddings[to], thumbnails[to] = embeddings[of], thumbnails[of]
    labels = np.arange(40) % 2
    whole = duplicates(embeddings, thumbnails, labels, digests)
    assert {(copy.first, copy.second) for copy in whole} >= {(0, 39), (3, 20), (20, 21)}
    for rows, columns, most in ((5, 3, 64), (7, 40, 2)):
        monkeypatch.setattr(duplicates_module, "_ROWS", rows)
        monkeypatch.setattr(duplicates_module, "_COLUMNS", columns)
        monkeypatch.setattr(duplicates_module, "_MAX_CANDIDATES", most)
        parts = duplicates(embeddings, thumbnails, labels, digests)
        assert [(c.first, c.second) for c in parts] == [(c.first, c.second) for c in whole]


def test_copies_between_two_sets() -> None:
    theirs = photos(9)
    ours = theirs[0][:5], theirs[1][:5], theirs[2][:5]
    theirs = theirs[0][::-1].copy(), theirs[1][::-1].copy(), [b"other %d" % i for i in range(9)]
    theirs[2][8] = b"0"
    found = copies_between(ours, theirs)
    assert [(copy.first, copy.second, copy.exact) for copy in found] == [
        (8 - i, i, i == 0) for i in range(5)
    ]  # fmt: skip
    assert copies_between(ours, (ours[0][:0], ours[1][:0], [])) == []


def test_groups_join_chains() -> None:
    copies = [Copy(first, second, True, 1, 1) for first, second in ((3, 4), (1, 3), (0, 2))]
    assert group(6, copies).tolist() == [0, 1, 0, 1, 1, 5]


def test_groups_are_all_images_that_copies_connect() -> None:
    random = np.random.default_rng(0)
    for n_copies in (3, 8, 15):
        pairs = random.integers(0, 20, (n_copies, 2))
        connected = np.eye(20, dtype=bool)
        connected[pairs[:, 0], pairs[:, 1]] = connected[pairs[:, 1], pairs[:, 0]] = True
        for _ in range(5):  # chains of up to 32 steps
            connected = connected @ connected
        found = group(20, [Copy(first, second, False, 0.97, 0.9) for first, second in pairs.tolist()])
        assert found.tolist() == connected.argmax(axis=1).tolist()  # the first image of each group


def changed_photos(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[bytes]]:
    """Return twelve images of four photos with other light, noise and shifts: embeddings, thumbnails, labels and digests."""
    random = np.random.default_rng(seed)
    embeddings, thumbnails = [], []
    for k in range(12):
        vector = np.eye(8)[k % 4] + random.uniform(0, 0.5) * np.eye(8)[4 + k // 4]
        embeddings.append(vector / np.linalg.norm(vector))
        pixels = np.roll(thumb(scene(k % 4)).astype(float), random.integers(-1, 2, 2), axis=(0, 1))
        noisy = pixels * random.uniform(0.5, 1) + random.normal(0, random.uniform(0, 8), pixels.shape)
        thumbnails.append(np.clip(noisy, 0, 255))
    labels = random.integers(0, 2, 12)
    return (
        np.array(embeddings, np.float32),
        np.array(thumbnails).astype(np.uint8),
        labels,
        [b"%d" % k for k in range(12)],
    )


def is_one_photo(similarity: float, agreement: float) -> bool:
    return (similarity >= 0.95 and agreement >= 0.70) or (similarity >= 0.85 and agreement >= 0.95)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_duplicates_equal_those_of_two_loops(seed: int) -> None:
    embeddings, thumbnails, labels, digests = changed_photos(seed)
    best: dict[tuple[int, bool], tuple[float, int, float]] = {}
    n_candidates = 0
    for second in range(12):
        for first in range(second):
            similarity = float(embeddings[first] @ embeddings[second])
            agreement = float(correlation(thumbnails[second][None], thumbnails[first][None])[0])
            n_candidates += similarity >= 0.85
            key = second, bool(labels[first] == labels[second])
            if is_one_photo(similarity, agreement) and similarity > best.get(key, (-1.0, 0, 0.0))[0]:
                best[key] = similarity, first, agreement
    found = duplicates(embeddings, thumbnails, labels, digests)
    assert 0 < len(best) < n_candidates  # the thumbnails decide some of them
    assert [(c.second, bool(labels[c.first] == labels[c.second]), c.first) for c in found] == [
        (*key, best[key][1]) for key in sorted(best)
    ]
    for copy in found:
        similarity, _, agreement = best[copy.second, bool(labels[copy.first] == labels[copy.second])]
        assert (copy.similarity, copy.correlation) == pytest.approx((similarity, agreement), abs=1e-5)
        assert not copy.exact


@pytest.mark.parametrize("seed", [4, 5])
def test_copies_between_equal_those_of_two_loops(seed: int) -> None:
    ours, theirs = changed_photos(seed), changed_photos(seed + 10)
    expected = {}
    for i in range(12):
        for j in range(12):
            similarity = float(ours[0][i] @ theirs[0][j])
            agreement = float(correlation(ours[1][i][None], theirs[1][j][None])[0])
            if is_one_photo(similarity, agreement) and similarity > expected.get(i, (-1.0, 0))[0]:
                expected[i] = similarity, j
    found = copies_between((*ours[:2], [b"ours"] * 12), (*theirs[:2], [b"theirs"] * 12))
    assert {copy.second: copy.first for copy in found} == {i: j for i, (_, j) in expected.items()}
    assert [copy.second for copy in found] == sorted(expected)
    assert found


def test_an_exact_copy_is_preferred_to_a_near_one() -> None:
    """Image 2 has the pixels of image 0; the embedding of image 1 is closer to it."""
    embeddings = np.array([[0.96, 0.28], [1, 0], [1, 0]], np.float32)
    thumbnails = np.repeat(thumb(scene(0))[None], 3, axis=0)
    found = duplicates(embeddings, thumbnails, np.zeros(3, np.int64), [b"a", b"b", b"a"])
    assert [(copy.first, copy.second, copy.exact) for copy in found] == [(0, 1, False), (0, 2, True)]
    (copy,) = copies_between((embeddings[2:], thumbnails[2:], [b"a"]), (embeddings[:2], thumbnails[:2], [b"a", b"b"]))
    assert copy == Copy(0, 0, True, 1.0, 1.0)


def test_an_exact_copy_points_to_the_first_of_several() -> None:
    embeddings, thumbnails, _ = photos(4)
    labels, digests = np.array([0, 1, 0, 1]), [b"same"] * 4
    found = duplicates(embeddings, thumbnails, labels, digests)
    # For each image, the first one with its label, and the first one with another.
    assert {(copy.first, copy.second) for copy in found} == {(0, 1), (0, 2), (1, 2), (1, 3), (0, 3)}
    between = copies_between((embeddings[:1], thumbnails[:1], [b"same"]), (embeddings, thumbnails, digests))
    assert [(copy.first, copy.second) for copy in between] == [(0, 0)]


def test_a_similarity_is_never_above_one() -> None:
    embeddings = np.full((2, 3), 0.57736, np.float32)  # slightly longer than a unit vector, as after rounding
    assert float(embeddings[0] @ embeddings[1]) > 1
    (copy,) = duplicates(embeddings, np.repeat(thumb(scene(0))[None], 2, axis=0), np.zeros(2, np.int64), [b"a", b"b"])
    assert copy.similarity == 1


def test_no_images_have_no_copies() -> None:
    assert duplicates(np.empty((0, 4), np.float32), np.empty((0, 24, 24), np.uint8), np.empty(0, np.int64), []) == []
    assert group(0, []).tolist() == []
