"""JPEGs of 12 megapixels read at full size, as before, and at reduced size, as now: speed, faces, embeddings, names.

Photos are enlarged to 12 megapixels with some noise, because enlarged photos would be too smooth: those of data/photos and
data/groups, one of each known person of data/album, and some strangers. Before: decoded at full size, searched with 6
megapixels. Now: decoded and searched at half of the size, with a second look at small candidates, and decoded
again for the crops of small faces. Rounds alternate. Then what takes the processor's time: reading alone, the search without
the second look, all of detection, and crops with embeddings.

Last, 300 faces of LFW view 1, reduced so that they are as sharp as their size allows, on a picture of 4096x3072: the
share of them that is found, by the longer side of their box.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import facespace
from facespace.detection.yunet import YuNet, _chosen
from facespace.faces.face import Face, overlaps

PIXELS = 12_200_000
SIZES = (16, 20, 24, 28, 32, 36, 40, 48, 60, 80)
COLUMNS, ROWS = 4096, 3072


class Before(YuNet):
    """The detector that searches with 6 megapixels and is shown photos in full size."""

    def least_scale(self, *_: int) -> float:
        return 1.0

    def _scale(self, height: int, width: int) -> float:
        return self._full_scale(height, width)


def enlarged(path: Path, target: Path, seed: int) -> Path:
    image = Image.open(path).convert("RGB")
    scale = (PIXELS / image.width / image.height) ** 0.5
    image = image.resize(
        (round(image.width * scale / 8) * 8, round(image.height * scale / 8) * 8), Image.Resampling.BICUBIC
    )
    noise = np.random.default_rng(seed).normal(0, 5, (image.height, image.width, 1))
    Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)).save(target, quality=90)
    return target


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Of the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare_speed(paths: list[Path], detectors: dict[str, YuNet], embedder: facespace.Embedder, rounds: int) -> None:
    for what, one in (("detect", None), ("detect and embed", embedder)):
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in detectors}
        for _ in range(rounds):
            for name, detector in detectors.items():
                times[name].append(seconds(lambda d=detector, e=one: list(facespace.process(paths, d, e))))
        medians = {
            name: [statistics.median(part) for part in zip(*found, strict=True)] for name, found in times.items()
        }
        told = ", ".join(
            f"{name} {len(paths) / m[0]:.2f}/s ({m[1] / len(paths):.3f} s of the processor)"
            for name, m in medians.items()
        )
        before, now = medians.values()
        print(
            f"{what:<18}{told}; {before[0] / now[0]:.2f} times, of the processor {before[1] / now[1]:.2f}", flush=True
        )


class _Reading(YuNet):
    """Finds nothing, so that only reading takes time."""

    def detect_reduced(self, photos: Sequence[np.ndarray], reductions: Sequence[int]) -> list[list[Face]]:
        del reductions
        return [[] for _ in photos]


class _FirstLook(YuNet):
    """Detects without the second look at small and uncertain faces."""

    def _refined(self, photos: Any, found: Sequence[Any], reductions: Any = None) -> list[Any]:
        del photos, reductions
        return [_chosen(one, one.scores >= self.min_score) for one in found]


def print_stages(paths: list[Path], embedder: facespace.Embedder, rounds: int) -> None:
    """Print the processor seconds a photo of each stage, as differences of medians."""
    for name, base in (("before", Before), ("now", YuNet)):
        reading = type("Reading", (_Reading, base), {})()
        first, whole = type("FirstLook", (_FirstLook, base), {})(), base()
        works: list[tuple[YuNet, facespace.Embedder | None]] = [
            (reading, None), (first, None), (whole, None), (whole, embedder)
        ]  # fmt: skip
        times = [
            [seconds(lambda d=detector, e=one: list(facespace.process(paths, d, e)))[1] for detector, one in works]
            for _ in range(rounds)
        ]
        medians = np.array([statistics.median(part) for part in zip(*times, strict=True)]) / len(paths)
        stages = np.diff(medians, prepend=0)
        n_faces = sum(len(photo.faces) for photo in facespace.process(paths, whole)) / len(paths)
        print(
            f"{name:<7}processor seconds a photo: reading {stages[0]:.3f}, search {stages[1]:.3f}, "
            f"second look {stages[2]:.3f}, crops and embeddings of {n_faces:.1f} faces {stages[3]:.3f}",
            flush=True,
        )


def compare_faces(
    paths: list[Path], detectors: dict[str, YuNet], embedder: facespace.Embedder, gallery: facespace.Gallery
) -> None:
    pairs = zip(*(facespace.process(paths, detector, embedder) for detector in detectors.values()), strict=True)
    both = only_before = only_now = named_both = named_other = n_named_before = n_named_now = 0
    ious, cosines, missed = [], [], []
    for before, now in pairs:
        names = [
            [match.name for match in gallery.identify(photo.embeddings, one_photo=True)] for photo in (before, now)
        ]
        n_named_before += sum(name is not None for name in names[0])
        n_named_now += sum(name is not None for name in names[1])
        boxes = [np.array([face.box for face in photo.faces]).reshape(-1, 4) for photo in (before, now)]
        common = overlaps(*boxes) if len(boxes[0]) and len(boxes[1]) else np.zeros((len(boxes[0]), len(boxes[1])))
        taken = set()
        for row, of_row in enumerate(common):
            if not len(of_row) or of_row.max() < 0.4:
                only_before += 1
                missed.append(before.faces[row])
                continue
            column = int(of_row.argmax())
            taken.add(column)
            both += 1
            ious.append(of_row[column])
            cosines.append(
                (
                    max(before.faces[row].width, before.faces[row].height),
                    float(before.embeddings[row] @ now.embeddings[column]),
                )
            )
            named_both += names[0][row] == names[1][column]
            named_other += names[0][row] != names[1][column]
        only_now += len(now.faces) - len(taken)
    print(
        f"faces: {both} found by both, mean IoU {np.mean(ious):.3f}, {only_before} before alone, {only_now} now alone"
    )
    print(
        "before alone (longer side, score): " + ", ".join(f"{max(f.width, f.height):.0f} {f.score:.2f}" for f in missed)
    )
    print(
        f"answers: {named_both} the same (a name or unknown), {named_other} other; names given before {n_named_before}, now {n_named_now}"
    )
    sides, cosine = np.array(cosines).T
    for low, high in ((0, 40), (40, 80), (80, 160), (160, 300), (300, 600), (600, 9999)):
        part = cosine[(sides >= low) & (sides < high)]
        if len(part):
            print(
                f"  faces of {low}-{high} px: {len(part)}, cosine mean {part.mean():.4f}, 5th percentile {np.percentile(part, 5):.3f}"
            )


def crowd(size: int, images: list[Image.Image], boxes: list[tuple[float, ...]]) -> tuple[bytes, np.ndarray]:
    """A JPEG with faces whose longer side is `size`, and their boxes (N,4)."""
    tiles = []
    for image, box in zip(images, boxes, strict=True):
        side = max(8, round(image.width * size / max(box[2] - box[0], box[3] - box[1])))
        tiles.append((image.resize((side, side), Image.Resampling.BICUBIC), np.array(box) * side / image.width))
    cell = max(tile.width for tile, _ in tiles) + 6
    generator = np.random.default_rng(size)
    n_columns, n_rows = COLUMNS // cell, ROWS // cell
    picture, truth = Image.new("RGB", (COLUMNS, ROWS), (110, 120, 100)), []
    for place, (tile, box) in zip(generator.permutation(n_columns * n_rows).tolist(), tiles, strict=False):
        x, y = (
            (place % n_columns) * cell + int(generator.integers(6)),
            (place // n_columns) * cell + int(generator.integers(6)),
        )
        picture.paste(tile, (x, y))
        truth.append(box + np.array([x, y, x, y]))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=92)
    return file.getvalue(), np.array(truth)


def compare_recall(shared: Path, detectors: dict[str, YuNet]) -> None:
    paths = sorted((shared / "data/lfw_view1/images").glob("*/*_0001.jpg"))[::8][:300]
    images = [Image.open(path).convert("RGB") for path in paths]
    found = detectors["now"].detect_many([np.asarray(image) for image in images])
    boxes = [max(faces, key=lambda face: face.width * face.height).box for faces in found]
    print(f"{'px':>4}{'before':>9}{'now':>9}   share of the faces found")
    for size in SIZES:
        data, truth = crowd(size, images, boxes)
        shares = []
        for detector in detectors.values():
            (photo,) = facespace.process([data], detector)
            seen = np.array([face.box for face in photo.faces]).reshape(-1, 4)
            shares.append(float((overlaps(truth, seen).max(axis=1, initial=0) > 0.4).mean()))
        print(f"{size:>4}{shares[0]:>9.3f}{shares[1]:>9.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    detectors = {"before": Before(), "now": YuNet()}
    embedder = facespace.Embedder.load()
    known = sorted((args.shared / "data/album/known").iterdir())
    strangers = sorted((args.shared / "data/album/unknown").iterdir())[::4]
    analyzer = facespace.FaceAnalyzer(embedder, detectors["now"])
    with (
        tempfile.TemporaryDirectory() as folder,
        facespace.Gallery(Path(folder, "g.gallery"), embedder, create=True) as gallery,
    ):
        for person in known:
            for path in sorted(person.iterdir())[:3]:
                analyzer.enroll(gallery, person.name, path, largest=True, any_quality=True)
        groups = {
            "photos": sorted((args.shared / "data/photos").glob("*.jpg")),
            "groups": sorted((args.shared / "data/groups").glob("*.jpg")),
            "portraits": [sorted(person.iterdir())[6] for person in known]
            + [sorted(person.iterdir())[0] for person in strangers],
        }
        for name, sources in groups.items():
            paths = [enlarged(path, Path(folder, f"{name}-{k}.jpg"), k) for k, path in enumerate(sources)]
            print(f"\n{name}: {len(paths)} JPEGs of about {PIXELS / 1e6:.0f} megapixels")
            compare_faces(paths, detectors, embedder, gallery)
            compare_speed(paths[:12], detectors, embedder, args.rounds)
            print_stages(paths[:12], embedder, min(args.rounds, 3))
    print("\nfaces of LFW view 1, 300 on 4096x3072")
    compare_recall(args.shared, detectors)


if __name__ == "__main__":
    main()
