"""Checks of a dataset: wrong labels and shared people, in synthetic embeddings with known labels and in real crops."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import facespace
from facespace.curation import checker as dataset_check
from facespace.curation.checker import Findings, check, shared_people, wrong_labels
from facespace.errors import DatasetError, ModelError
from facespace.faces.crops import CropRecord
from support.pictures import crowd, scene

# Wrong labels


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_planted_labels_are_found_and_no_others(share: float) -> None:
    embeddings, truth = crowd(30, 20)
    random = np.random.default_rng(1)
    planted = np.sort(random.choice(len(truth), int(share * len(truth)), replace=False))
    labels = truth.copy()
    labels[planted] = (truth[planted] + random.integers(1, 30, len(planted))) % 30
    found = wrong_labels(embeddings, labels, 30)
    assert found.wrong.nonzero()[0].tolist() == planted.tolist()
    assert (found.nearest[planted] == truth[planted]).all()
    assert not found.same_people


def test_a_clean_dataset_is_left_alone() -> None:
    assert not wrong_labels(*crowd(40, 6), 40).wrong.any()


def test_unknown_people_are_far() -> None:
    embeddings, labels = crowd(20, 10)
    strangers, _ = crowd(5, 1, seed=9)
    embeddings[[3, 44, 101, 150, 199]] = strangers
    found = wrong_labels(embeddings, labels, 20)
    assert found.far.nonzero()[0].tolist() == [3, 44, 101, 150, 199]
    assert (found.own[found.far] < found.far_below).all()


def test_closer_to_another_but_not_far() -> None:
    embeddings, labels = crowd(20, 12, dimension=256)
    centres = wrong_labels(embeddings, labels, 20).centres
    mixed = 0.55 * centres[0] + 0.9 * centres[1]
    embeddings[2] = mixed / np.linalg.norm(mixed)
    found = wrong_labels(embeddings, labels, 20)
    assert found.closer.nonzero()[0].tolist() == [2]
    assert not found.far[2]
    assert found.nearest[2] == 1


def test_own_similarity_follows_the_formula() -> None:
    embeddings, labels = crowd(6, 5)
    found = wrong_labels(embeddings, labels, 6)
    assert found.counts.tolist() == [5] * 6
    pairwise, own = [], []
    for i, x in enumerate(embeddings):
        others = [embeddings[j] for j in range(len(labels)) if labels[j] == labels[i] and j != i]
        pairwise.append(np.mean([x @ other for other in others]))
        mean = np.mean(others, axis=0)
        own.append(x @ mean / np.linalg.norm(mean))
    rho = np.median(pairwise)
    expected = np.array(own) * np.sqrt((1 + 3 * rho) / (4 * rho))
    np.testing.assert_allclose(found.own, np.minimum(expected, 1), atol=1e-5)
    assert found.median == pytest.approx(np.median(expected), abs=1e-5)
    above = expected[expected >= np.median(expected)]
    assert found.spread == pytest.approx(1.4826 * np.median(above - np.median(expected)), abs=1e-4)


def test_the_larger_part_of_a_mixed_identity_is_right() -> None:
    embeddings, labels = crowd(20, 20)
    embeddings[:9] = crowd(1, 9, seed=5)[0]
    found = wrong_labels(embeddings, labels, 20)
    assert found.wrong.nonzero()[0].tolist() == list(range(9))
    assert found.counts[0] == 11


def test_copies_do_not_support_each_other() -> None:
    embeddings, labels = crowd(12, 5)
    strangers, _ = crowd(1, 1, seed=7)
    embeddings = np.concatenate([embeddings, np.repeat(strangers, 7, axis=0)])
    labels = np.concatenate([labels, np.zeros(7, np.int64)])
    groups = np.arange(len(labels))
    groups[60:] = 60
    assert set(range(60, 67)) <= set(wrong_labels(embeddings, labels, 12, groups=groups).wrong.nonzero()[0].tolist())
    # Without `groups`, the majority of the folder would be that one picture.
    assert not wrong_labels(embeddings, labels, 12).wrong[60:].any()


def test_one_person_under_two_names_is_reported_and_not_a_thousand_wrong_labels() -> None:
    embeddings, truth = crowd(20, 20)
    labels = truth.copy()
    labels[:10] = 20
    found = wrong_labels(embeddings, labels, 21)
    assert [pair[:2] for pair in found.same_people] == [(0, 20)]
    assert found.same_people[0][2] > 0.9
    assert not found.wrong.any()
    assert not set(found.nearest[truth == 0].tolist()) & {0, 20}


def test_small_identities_are_judged_like_large_ones() -> None:
    embeddings, labels = crowd(40, 3, seed=3)
    assert wrong_labels(embeddings, labels, 40).wrong.sum() <= 1
    embeddings[0] = embeddings[4]  # of identity 1
    found = wrong_labels(embeddings, labels, 40)
    assert found.wrong[0]
    assert found.nearest[0] == 1


def test_single_images_are_never_suspicious() -> None:
    embeddings, labels = crowd(8, 1)
    found = wrong_labels(embeddings, labels, 10)
    assert np.isnan(found.own).all()
    assert not found.wrong.any()
    assert found.counts.tolist() == [1] * 8 + [0, 0]
    empty = wrong_labels(embeddings[:0], labels[:0], 2)
    assert empty.centres.shape == (2, 128)
    assert not empty.wrong.any()


def test_the_size_of_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, labels = crowd(15, 8)
    labels[::9] = (labels[::9] + 1) % 15
    whole = wrong_labels(embeddings, labels, 15)
    monkeypatch.setattr(dataset_check, "_ROWS", 7)
    parts = wrong_labels(embeddings, labels, 15)
    assert (parts.wrong == whole.wrong).all()
    assert (parts.nearest == whole.nearest).all()
    np.testing.assert_allclose(parts.other, whole.other, atol=1e-6)
    assert parts.stranger_mean == pytest.approx(whole.stranger_mean, abs=1e-6)


def test_labels_that_do_not_fit() -> None:
    embeddings, labels = crowd(3, 3)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1, got 0\.\.2"):
        wrong_labels(embeddings, labels, 2)
    with pytest.raises(ValueError, match=r"must be \(N,D\)"):
        wrong_labels(embeddings, labels[1:], 3)


# Shared people


def test_shared_people_by_face_and_by_name() -> None:
    ours, _ = crowd(5, 1)
    theirs, _ = crowd(4, 1, seed=8)
    theirs[2] = ours[1]
    theirs[3] = 0
    names = (["Ann Lee", "b", "c", "Zoë", "e"], ["ann_lee", "x", "y", "Zoe\u0308"])
    found = shared_people(ours, theirs, (np.full(5, 0.1), np.full(4, 0.5)), names=names)
    assert [(s.first, s.second, s.same_name, s.is_match) for s in found] == [
        (0, 0, True, False), (1, 2, False, True), (3, 3, True, False),
    ]  # fmt: skip
    assert found[1].threshold == pytest.approx(0.6)
    assert found[1].similarity == pytest.approx(1)


def test_an_equal_name_halves_the_threshold() -> None:
    ours, theirs = np.array([[1.0, 0.0]]), np.array([[0.4, (1 - 0.16) ** 0.5]])
    for names, expected in (((["a"], ["A"]), [True]), ((["a"], ["b"]), [])):
        found = shared_people(ours, theirs, (np.zeros(1), np.full(1, 0.7)), names=names)
        assert [shared.is_match for shared in found] == expected


def test_more_comparisons_and_more_photos_raise_the_threshold(embedder: facespace.Embedder) -> None:
    def expected(n_ours: int, counts: list[int]) -> float:
        parts = dataset_check._thresholds(embedder.calibration, None, np.array([n_ours]), np.array(counts))
        return float(parts[0][0] + parts[1][0])

    assert embedder.calibration is not None
    assert expected(1, [1]) == pytest.approx(embedder.calibration.match_threshold(0.01))
    assert expected(1, [1] * 1000) == pytest.approx(embedder.calibration.match_threshold(1e-5), abs=1e-3)
    assert expected(20, [1]) > expected(1, [1])
    assert expected(1, [20]) == pytest.approx(expected(20, [1]))
    given = dataset_check._thresholds(embedder.calibration, 0.42, np.array([5]), np.array([1, 9]))
    assert (given[0] + given[1]).tolist() == [0.42, 0.42]


# Whole datasets


@pytest.fixture(scope="module")
def planted(shared: Path, embedder: facespace.Embedder, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Six people with seven crops each, with errors, and an evaluation set that shares one person and one photo."""
    root, evaluation = tmp_path_factory.mktemp("doctor") / "data", tmp_path_factory.mktemp("evaluation")
    people = [path.name for path in sorted((shared / "data" / "train_182").iterdir())][:8]
    for name in people[:6]:
        (root / name).mkdir(parents=True)
        for file in sorted((shared / "data" / "train_182" / name).iterdir())[:7]:
            shutil.copy(file, root / name)
    for name, source in (("the same", people[0]), ("nobody", people[7])):
        (evaluation / name).mkdir()
        for file in sorted((shared / "data" / "train_182" / source).iterdir())[10:13]:
            shutil.copy(file, evaluation / name)
    a, b, c, d = (root / name for name in people[1:5])
    (a / sorted(p.name for p in a.iterdir())[0]).rename(b / "wrong.jpg")
    first = sorted(c.iterdir())[0]
    shutil.copy(first, c / "zz exact.jpg")
    shutil.copy(first, d / "zz across.jpg")
    Image.open(first).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(c / "zz near.jpg", quality=60)
    (d / "damaged.jpg").write_bytes(first.read_bytes()[:300])
    (root / "alone").mkdir()
    shutil.copy(sorted(b.iterdir())[1], evaluation / "nobody" / "leaked.jpg")
    return check(root, embedder, against=evaluation, against_crops=True)


@pytest.mark.shared
def test_planted_errors_in_real_crops_are_found(planted: Findings) -> None:
    images, labels = planted.images, planted.labels
    files = [Path(path).name for path in images.paths]
    assert [Path(path).name for _, path, _ in images.unreadable] == ["damaged.jpg"]
    assert images.prepared == {"the central 160 px of 182 px crops": len(files)}
    wrong = {files[i]: images.names[labels.nearest[i]] for i in labels.wrong.nonzero()[0]}
    assert wrong["wrong.jpg"] == images.names[2]  # "alone" comes first
    assert wrong["zz across.jpg"] == images.names[4]
    assert len(wrong) <= 5  # as usual
    copies = {(files[copy.second], copy.exact) for copy in planted.copies}
    assert {("zz exact.jpg", True), ("zz across.jpg", True), ("zz near.jpg", False)} <= copies
    assert labels.counts[images.names.index("alone")] == 0
    assert planted.evaluation is not None
    matches = {planted.evaluation.names[s.second] for s in planted.shared if s.is_match}
    assert matches == {"the same"}
    ((theirs, exact),) = {(planted.evaluation.paths[c.first], c.exact) for c in planted.shared_copies}
    assert Path(theirs).name == "leaked.jpg"
    assert exact


def test_an_evaluation_set_of_photos_is_aligned(
    hopper_file: Path, embedder: facespace.Embedder, tmp_path: Path
) -> None:
    for folder in ("photos/Grace", "photos/nothing", "crops/Someone"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(hopper_file, tmp_path / "photos" / "Grace" / "1.jpg")
    Image.new("RGB", (200, 200), "gray").save(tmp_path / "photos" / "nothing" / "1.png")
    photo = facespace.read(hopper_file)
    (face,) = facespace.MTCNN().detect(photo)
    Image.fromarray(facespace.align(photo, face, embedder.spec)).save(tmp_path / "crops" / "Someone" / "1.png")
    findings = check(tmp_path / "crops", embedder, against=tmp_path / "photos")
    assert [(s.first, s.second, s.is_match) for s in findings.shared] == [(0, 0, True)]
    assert [(copy.first, copy.second) for copy in findings.shared_copies] == [(0, 0)]
    assert findings.evaluation is not None
    assert [Path(path).parent.name for _, path in findings.evaluation.faceless] == ["nothing"]
    # With a record of crops, the whole photo is embedded as a crop.
    CropRecord(160, 32, "box").write(tmp_path / "photos")
    findings = check(tmp_path / "crops", embedder, against=tmp_path / "photos")
    assert findings.evaluation is not None
    assert not findings.evaluation.faceless
    assert sorted(findings.evaluation.prepared.values()) == [1, 1]


def test_without_thresholds_the_error_asks_for_one(
    embedder: facespace.Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    scene(1).save(tmp_path / "a" / "1.png")
    monkeypatch.setattr(embedder, "calibration", None)
    with pytest.raises(ModelError, match="give one with --threshold"):
        check(tmp_path, embedder, against=tmp_path, against_crops=True)
    found = check(tmp_path, embedder, against=tmp_path, against_crops=True, threshold=0.5)
    assert [shared.threshold for shared in found.shared] == [0.5]


def test_a_dataset_without_a_readable_image(embedder: facespace.Embedder, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"no")
    with pytest.raises(DatasetError, match="none of its images could be read"):
        check(tmp_path, embedder)
