"""How many decisions change between this processor's default precision of a model and float32.

Every face is found and cut once and embedded twice. LFW view 1: all pairs of photos at the default threshold, the listed pairs,
accuracy and VAL. The album: six photos of each known person enrolled, the rest and strangers identified. Group photos: pairs
within one photo at the thresholds for false match rates of 1e-2 and 1e-3, and everybody identified among the largest faces of
all photos. If this processor has no faster precision, there is nothing to compare.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import facespace
import lfw
import look_alikes
from facespace.defaults import DEFAULT_MODEL
from facespace.faces.face import central_face
from facespace.faces.quality import LOW_QUALITY
from lfw_view1 import best_threshold
from speed import processor

ENROLLED = 6
FMR = (1e-3, 1e-4, 1e-5)


def faces_of(paths: list[Path], embedder: facespace.Embedder, detector: facespace.Detector, which: str) -> list[tuple]:
    """(path, crop, quality) of the central face, the largest or all faces of photos."""
    found = []
    for photo in facespace.process(map(str, paths), detector, keep_pixels=True):
        faces = photo.faces
        if faces and which == "central":
            height, width = photo.pixels.shape[:2]
            faces = [central_face(faces, width, height)]
        elif which != "all":
            faces = sorted(faces, key=lambda face: -(face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))[:1]
        found += [
            (Path(photo.path), facespace.align(photo.pixels, face, embedder.spec), face.quality) for face in faces
        ]
    return found


def view1(shared: Path, embedders: dict[str, facespace.Embedder], detector: facespace.Detector) -> None:
    faces = faces_of(
        sorted((shared / "data/lfw_view1/images").rglob("*.jpg")), embedders["float32"], detector, "central"
    )
    crops = np.stack([crop for _, crop, _ in faces])
    row = {path.stem: k for k, (path, _, _) in enumerate(faces)}
    person = np.unique([path.parent.name for path, _, _ in faces], return_inverse=True)[1]
    quality = float(np.median([q for _, _, q in faces]))
    first, second = np.triu_indices(len(faces), 1)
    different = person[first] != person[second]
    listed = [lfw.pairs(shared / f"data/lfw_view1/pairsDev{part}.txt") for part in ("Train", "Test")]
    decided: dict[str, np.ndarray] = {}
    decided_listed: dict[str, np.ndarray] = {}
    print(f"\nLFW view 1, {len(faces)} photos with a face, {different.sum()} pairs of different people")
    for name, embedder in embedders.items():
        vectors = np.asarray(embedder.represent(crops))
        similarity = (vectors @ vectors.T)[first, second]
        decided[name] = similarity >= embedder.threshold(quality=quality)
        impostors = np.sort(similarity[different])
        levels = [impostors[-1 - int(rate * len(impostors))] for rate in FMR]
        genuine = similarity[~different]
        values, same = zip(
            *(
                (
                    np.array([vectors[row[a]] @ vectors[row[b]] for a, b, _ in pairs if a in row and b in row]),
                    np.array([is_same for a, b, is_same in pairs if a in row and b in row]),
                )
                for pairs in listed
            ),
            strict=True,
        )
        threshold = best_threshold(values[0], same[0])
        decided_listed[name] = values[1] >= threshold
        print(
            f"  {name:9} accuracy {(decided_listed[name] == same[1]).mean():.4f} at {threshold:.4f}; "
            + ", ".join(
                f"VAL@{rate:g} {(genuine >= at).mean():.4f} at {at:.4f}" for rate, at in zip(FMR, levels, strict=True)
            )
        )
    a, b = decided
    changed = decided[a] != decided[b]
    print(
        f"  changed at the default threshold: {changed[different].sum()} pairs of different people "
        f"({decided[a][different].sum()} reach it in {a}, {decided[b][different].sum()} in {b}), "
        f"{changed[~different].sum()} of {(~different).sum()} pairs of one person; "
        f"of pairsDevTest {(decided_listed[a] != decided_listed[b]).sum()}"
    )


def album(shared: Path, embedders: dict[str, facespace.Embedder], detector: facespace.Detector) -> None:
    folder = shared / "data/album"
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    faces = faces_of(paths, embedders["float32"], detector, "largest")
    crops = np.stack([crop for _, crop, _ in faces])
    first: dict[str, list[Path]] = {
        person.name: sorted(person.iterdir())[:ENROLLED] for person in sorted((folder / "known").iterdir())
    }
    enrolled = np.array([path in first.get(path.parent.name, ()) for path, _, _ in faces])
    truth = np.array([path.parent.name if path.parent.parent.name == "known" else "" for path, _, _ in faces])[
        ~enrolled
    ]
    named: dict[str, np.ndarray] = {}
    print(f"\nalbum, {enrolled.sum()} faces enrolled, {(~enrolled).sum()} identified, default rate")
    for name, embedder in embedders.items():
        vectors = embedder.represent(crops)
        with (
            tempfile.TemporaryDirectory() as place,
            facespace.Gallery(Path(place, "g"), embedder, create=True) as gallery,
        ):
            for k in np.flatnonzero(enrolled):
                gallery.add(faces[k][0].parent.name, vectors[k], crops[k], source=str(faces[k][0]))
            named[name] = np.array([match.name or "" for match in gallery.identify(vectors[~enrolled])])
        known = truth != ""
        print(
            f"  {name:9} known named right {(named[name] == truth)[known].mean():.4f}, wrong "
            f"{((named[name] != truth) & (named[name] != ''))[known].mean():.4f}, strangers named "
            f"{(named[name] != '')[~known].mean():.4f}"
        )
    a, b = named.values()
    print(f"  names changed: {(a != b).sum()}")


def groups(shared: Path, embedders: dict[str, facespace.Embedder], detector: facespace.Detector) -> None:
    faces = faces_of(look_alikes.group_photos(shared), embedders["float32"], detector, "all")
    crops = np.stack([crop for _, crop, _ in faces])
    photo = np.array([path.name for path, _, _ in faces])
    quality = np.array([q for _, _, q in faces])
    first, second = look_alikes.pairs_within(photo)
    pair_quality = (quality[first] + quality[second]) / 2
    people = np.array(
        [rows[np.argmax(quality[rows])] for name in np.unique(photo) if len(rows := np.flatnonzero(photo == name)) >= 3]
    )
    people = people[quality[people] >= LOW_QUALITY]
    probes = np.flatnonzero(~np.isin(np.arange(len(photo)), people))
    reached: dict[str, dict[float, np.ndarray]] = {}
    named: dict[str, np.ndarray] = {}
    print(f"\ngroup photos, {len(faces)} faces, {len(first)} pairs within a photo, {len(people)} faces enrolled")
    for name, embedder in embedders.items():
        vectors = np.asarray(embedder.represent(crops))
        similarity = (vectors[first] * vectors[second]).sum(axis=1)
        table = embedder.calibration
        assert table is not None
        reached[name] = {
            rate: similarity >= np.array([table.match_threshold(rate, float(q)) for q in pair_quality])
            for rate in (1e-2, 1e-3)
        }
        over = vectors[probes] @ vectors[people].T - table.identification_thresholds(
            table.default_rate, [1] * len(people), qualities=quality[people], probe_qualities=quality[probes]
        )
        named[name] = np.where(over.max(axis=1) >= 0, over.argmax(axis=1), -1)
        shares = ", ".join(f"{hits.mean():.4f} at {rate:g}" for rate, hits in reached[name].items())
        print(f"  {name:9} pairs that reach the threshold {shares}; strangers named {(named[name] >= 0).mean():.4f}")
    a, b = embedders
    changed = ", ".join(f"{(reached[a][rate] != reached[b][rate]).sum()} at {rate:g}" for rate in reached[a])
    print(f"  changed: pairs {changed}; names {(named[a] != named[b]).sum()} of {len(probes)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--without-lfw", action="store_true", help="leave out LFW, the longest part")
    args = parser.parse_args()
    fastest = facespace.Embedder.load(args.model)
    if fastest.precision == "float32":
        raise SystemExit(f"{args.model} is computed in float32 on this processor: {processor()}")
    embedders = {
        "float32": facespace.Embedder.load(args.model, precision="float32"),
        fastest.precision: fastest,
    }
    print(f"{fastest.name}, {fastest.runtime} {fastest.precision} against float32; {processor()}")
    detector = facespace.create_detector(fastest.detector)
    album(args.shared, embedders, detector)
    groups(args.shared, embedders, detector)
    if not args.without_lfw:
        view1(args.shared, embedders, detector)


if __name__ == "__main__":
    main()
