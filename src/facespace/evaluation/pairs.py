"""Evaluates a model on labelled pairs of photos: embeds the photos, judges the pairs and records the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from facespace.datasets.pairs.lists import PairList
from facespace.datasets.pairs.pair_sets import PairSet
from facespace.detection.protocol import Detector
from facespace.embedding.collapse import collapse_remark
from facespace.embedding.embedder import Embedder
from facespace.errors import DatasetError, ImageError
from facespace.faces.alignment import central_crop
from facespace.faces.crops import resize
from facespace.io import image, pictures
from facespace.io.text import plain_text
from facespace.metrics.bootstrap import bootstrap
from facespace.metrics.distances import Distance
from facespace.metrics.unit_vectors import to_unit_length
from facespace.metrics.verification import Verification, choose_threshold, evaluate
from facespace.pipeline.photos import process

Flip = Literal["none", "concat", "add"]
Progress = Callable[[int, int], None]
BATCH = 64  # photos
_THUMBNAIL = 96  # pixels


@dataclass(slots=True)
class Represented:
    """The `embeddings` (N,D) of photos; `failed` maps a photo's number to a reason, `thumbnails` to a JPEG's bytes."""

    embeddings: npt.NDArray[np.float32]
    failed: dict[int, str]
    thumbnails: dict[int, bytes]


@dataclass(frozen=True, slots=True)
class GroupRate:
    """The error rates on the pairs of one group, at the threshold that judged each pair.

    `fnmr` is None if the group has no pairs of the same person, `fmr` if it has none of different people.
    """

    n_same: int
    n_different: int
    accuracy: float
    fnmr: float | None
    fmr: float | None


@dataclass(slots=True)
class Evaluation:
    """The figures measured on `used` pairs (indices into the list's pairs), and the settings they depend on.

    `missing` are photos without a file. `failed` maps each photo without a usable face to the reason. `misfit` says why
    crops and model do not fit together, or is None. `collapsed` is a remark if the embeddings of different people are
    all alike, else empty.
    """

    source: PairSet
    verification: Verification
    intervals: dict[str, tuple[float, float]]
    groups: dict[str, dict[str, GroupRate]]
    used: npt.NDArray[np.int64]
    missing: list[str]
    failed: dict[str, str]
    misfit: str | None
    settings: dict[str, Any]
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    collapsed: str = ""

    @property
    def n_missing(self) -> int:
        """The number of pairs left out because a file is missing."""
        return len(self.source.pairs.same) - len(self.used)


def evaluate_pairs(
    source: PairSet,
    embedder: Embedder,
    *,
    detector: Detector | None = None,
    threshold_from: PairSet | None = None,
    distance: Distance = "euclidean",
    flip: Flip = "none",
    subtract_mean: bool = False,
    allow_missing: bool = False,
    resize_crops: bool = False,
    keep_thumbnails: bool = False,
    progress: Progress | None = None,
    represent_set: Callable[[PairSet], Represented] | None = None,
) -> Evaluation:
    """Judge the pairs of `source`, and measure how often the verdicts are right.

    Whole photos need a `detector`; of several faces in a photo the one chosen by `central_face` is used. `flip`
    combines the embeddings of photo and mirror image: `concat` concatenates them, as the 2018 program does (the result
    is not of unit length); `add` adds them and scales the sum to unit length. With `threshold_from`, the threshold and
    the mean embedding to subtract are taken from that set, and folds are not used. `represent_set` embeds the photos of
    a set instead of `represent`, for example on other machines. Raises `DatasetError` if files are missing or folds are
    uneven (unless `allow_missing`), if crops do not fit the model (unless `resize_crops`), and if nothing can be
    measured on the pairs.
    """
    sets = [source] if threshold_from is None else [source, threshold_from]
    misfits = [one.crops.misfit(embedder.spec) for one in sets if one.crops is not None]
    misfit = next((reason for reason in misfits if reason), None)
    if misfit and not resize_crops:
        raise DatasetError(
            f"{source.name}: {misfit}; figures on resized crops are not the model's "
            "(--resize-crops measures them anyway, and says so)"
        )
    used = [usable_pairs(one, allow_missing) for one in sets]
    n_photos = sum(len(one.files) for one in sets)
    done = 0

    def show(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, n_photos)

    seen = [
        represent_set(one)
        if represent_set is not None
        else represent(
            one, embedder, detector, flip=flip, keep_thumbnails=keep_thumbnails and one is source, progress=show
        )
        for one in sets
    ]
    try:
        threshold, mean = None, None
        if threshold_from is not None:
            threshold, mean = choose_threshold(
                seen[1].embeddings,
                *_columns(threshold_from.pairs, used[1]),
                distance=distance,
                subtract_mean=subtract_mean,
                detected=_detected(seen[1]),
            )
        fold = source.pairs.fold[used[0]] if source.pairs.fold is not None and threshold_from is None else None
        if fold is not None and min(_per_fold(fold, source.pairs.same[used[0]])) == 0:
            fold = None  # only with allow_missing: a fold with one kind of pair cannot be judged
        verification = evaluate(
            seen[0].embeddings,
            *_columns(source.pairs, used[0]),
            fold=fold,
            distance=distance,
            subtract_mean=subtract_mean and threshold_from is None,
            threshold=threshold,
            mean=mean,
            detected=_detected(seen[0]),
        )
    except ValueError as error:
        raise DatasetError(f"{source.name}: {error}") from None
    names = source.pairs.photos
    return Evaluation(
        source=source,
        verification=verification,
        intervals=_intervals(source.pairs, used[0], verification),
        groups=_groups(source.pairs, used[0], verification),
        used=used[0],
        missing=[name for name, file in zip(names, source.files, strict=True) if file is None],
        failed={names[k]: reason for k, reason in seen[0].failed.items()},
        misfit=misfit,
        settings={
            "pairs": source.name,
            "model": embedder.name,
            "fingerprint": embedder.fingerprint,
            "input_spec": embedder.spec.as_dict(),
            "runtime": embedder.runtime,
            "precision": embedder.precision,
            "faces": "aligned crops"
            if source.crops is not None
            else f"own detection ({type(detector).__name__}), the 2018 rule's face",
            "crops_resized": misfit is not None,
            "distance": {"euclidean": "squared Euclidean", "angle": "angle / pi"}[distance],
            "flip": flip,
            "subtract_mean": subtract_mean,
            "folds": len(verification.fold_accuracies) or None,
            "threshold_from": threshold_from.name if threshold_from is not None else verification.threshold_source,
        },
        thumbnails=seen[0].thumbnails,
        collapsed=collapse_remark(seen[0].embeddings[_detected(seen[0])], "photos of different people"),
    )


def _columns(
    pairs: PairList, used: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    return pairs.first[used], pairs.second[used], pairs.same[used]


def _detected(seen: Represented) -> npt.NDArray[np.bool_]:
    detected = np.ones(len(seen.embeddings), np.bool_)
    detected[list(seen.failed)] = False
    return detected


def usable_pairs(source: PairSet, allow_missing: bool) -> npt.NDArray[np.int64]:
    """Return the indices of the pairs whose files exist.

    Raises `DatasetError` if there are no such pairs, and, unless `allow_missing`, for missing files or uneven folds.
    """
    pairs = source.pairs
    present = np.array([file is not None for file in source.files])
    used = np.flatnonzero(present[pairs.first] & present[pairs.second])
    if len(used) < len(pairs.same) and not allow_missing:
        lost = [plain_text(name) for name, found in zip(pairs.photos, present, strict=True) if not found]
        some = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        raise DatasetError(
            f"{source.name}: {len(pairs.same) - len(used)} of {len(pairs.same)} pairs lack a photo ({some}); "
            "figures on the rest are not comparable, --allow-missing measures them anyway"
        )
    if not len(used):
        raise DatasetError(f"{source.name}: no pair has both its photos")
    if pairs.fold is not None and not allow_missing:
        for same, words in ((True, "the same person"), (False, "different people")):
            counts = _per_fold(pairs.fold, pairs.same == same)[: pairs.fold.max()]
            if max(counts) - min(counts) > 1:
                raise DatasetError(
                    f"{source.name}: uneven folds, {min(counts)} to {max(counts)} pairs of {words} in each; "
                    "the mean of their accuracies is misleading, --allow-missing measures anyway, without folds "
                    "if one has pairs of one kind only"
                )
    return used


def _per_fold(fold: npt.NDArray[np.int64], same: npt.NDArray[np.bool_]) -> list[int]:
    """Return the numbers of same-person pairs in all folds, followed by the numbers of different-person pairs."""
    n_folds = int(fold.max())
    counts = [np.bincount(fold[kind] - 1, minlength=n_folds).tolist() for kind in (same, ~same)]
    return [*counts[0], *counts[1]]


def represent(
    source: PairSet,
    embedder: Embedder,
    detector: Detector | None,
    *,
    flip: Flip,
    keep_thumbnails: bool,
    progress: Callable[[int], None],
    numbers: Sequence[int] | None = None,
) -> Represented:
    """Embed all photos of a list, or only the photos with these `numbers`.

    The embeddings of all other photos stay 0, and so do those of photos that are unreadable or show no face. `failed`
    gives the reasons for the latter.
    Photos that have a file are embedded in batches of `BATCH`.
    """
    seen = empty(source, embedder.dimension, flip)
    chosen = range(len(source.files)) if numbers is None else numbers
    rows = [k for k in chosen if source.files[k] is not None]
    crops = _whole_photos(source, rows, embedder, detector) if source.crops is None else _crops(source, rows, embedder)
    while batch := list(islice(crops, BATCH)):
        readable = [(k, crop) for k, crop, _ in batch if crop is not None]
        seen.failed.update({k: reason for k, crop, reason in batch if crop is None})
        if readable:
            stack = np.stack([crop for _, crop in readable])
            seen.embeddings[[k for k, _ in readable]] = _embed(embedder, stack, flip)
        if keep_thumbnails:
            for k, crop in readable:
                seen.thumbnails[k] = _thumbnail(crop)
        progress(len(batch))
    return seen


def empty(source: PairSet, dimension: int, flip: Flip) -> Represented:
    """Return a `Represented` in which the embeddings of all photos of a list are 0."""
    width = dimension * (2 if flip == "concat" else 1)
    return Represented(np.zeros((len(source.files), width), np.float32), {}, {})


Crop = tuple[int, npt.NDArray[np.uint8] | None, str]  # (photo, its crop, ""), or (photo, None, the reason)


def _whole_photos(
    source: PairSet, rows: Sequence[int], embedder: Embedder, detector: Detector | None
) -> Iterator[Crop]:
    if detector is None:
        raise ValueError("whole photos need a detector")
    photos = process((str(source.files[k]) for k in rows), detector, keep_pixels=True)
    for k, photo in zip(rows, photos, strict=True):
        if photo.pixels is None or not photo.faces:
            yield k, None, photo.error or "no face found"
            continue
        yield k, central_crop(photo.pixels, photo.faces, embedder.spec), ""


def _crops(source: PairSet, rows: Sequence[int], embedder: Embedder) -> Iterator[Crop]:
    assert source.crops is not None
    size = source.crops.image_size
    for k in rows:
        file = source.files[k]
        assert file is not None
        try:
            crop = image.read(file)
        except ImageError as error:
            yield k, None, error.reason
            continue
        height, width = crop.shape[:2]
        if (height, width) != (size, size):
            name = plain_text(source.pairs.photos[k])
            raise DatasetError(f"{source.name}: {name} is {width}x{height} px, the crops must be {size}x{size}")
        yield k, resize(crop, embedder.spec.size), ""


def _embed(embedder: Embedder, crops: npt.NDArray[np.uint8], flip: Flip) -> npt.NDArray[np.float32]:
    if flip == "none":
        return embedder.embed(crops)
    both = embedder.embed(np.concatenate([crops, crops[:, :, ::-1]]))
    plain, mirror = both[: len(crops)], both[len(crops) :]
    if flip == "concat":
        return np.concatenate([plain, mirror], axis=1)
    return to_unit_length(plain + mirror)


def _thumbnail(crop: npt.NDArray[np.uint8]) -> bytes:
    return pictures.encode(Image.fromarray(crop).resize((_THUMBNAIL, _THUMBNAIL)), "JPEG", quality=80)


def _intervals(
    pairs: PairList, used: npt.NDArray[np.int64], verification: Verification
) -> dict[str, tuple[float, float]]:
    if pairs.people is None:
        return {}
    numbers = {name: k for k, name in enumerate(dict.fromkeys(pairs.people))}
    person = np.array([numbers[name] for name in pairs.people])
    first, second, same = _columns(pairs, used)
    # People of a .bin are inferred from its labels alone; leave out pairs where the labels contradict each other.
    consistent = (person[first] == person[second]) == same
    return bootstrap(
        verification.distances[consistent],
        same[consistent],
        person[first][consistent],
        person[second][consistent],
        correct=verification.correct[consistent],
    )


def _groups(
    pairs: PairList, used: npt.NDArray[np.int64], verification: Verification
) -> dict[str, dict[str, GroupRate]]:
    """Return {group column: {value: error rates of its pairs}}, at the threshold that judged each pair."""
    same, wrong = pairs.same[used], ~verification.correct
    result: dict[str, dict[str, GroupRate]] = {}
    for column, values in pairs.groups.items():
        of_pair = np.array(values)[used]
        rates = result.setdefault(column, {})
        for value in sorted(set(of_pair.tolist())):
            here = of_pair == value
            mated, impostor = here & same, here & ~same
            rates[value] = GroupRate(
                int(mated.sum()),
                int(impostor.sum()),
                float(1 - wrong[here].mean()),
                float(wrong[mated].mean()) if mated.any() else None,
                float(wrong[impostor].mean()) if impostor.any() else None,
            )
    return result
