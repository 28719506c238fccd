"""Open-set recognition on the album: enroll six photos of each known person, identify the other photos and strangers.

Faces are found by facespace's detector. If a photo has several faces, the largest is used, because the album shows one person per
photo; a photo without a face counts as not named. The thresholds were measured on other people (LFW view 1).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

import facespace
from facespace.defaults import DEFAULT_MODEL

ENROLLED = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", default=DEFAULT_MODEL)
    args = parser.parse_args()
    album = args.shared / "data/album"
    embedder = facespace.Embedder.load(args.model)
    detector = facespace.create_detector(embedder.detector)
    known = {person.name: sorted(map(str, person.iterdir())) for person in sorted((album / "known").iterdir())}
    strangers = sorted(str(path) for path in (album / "unknown").rglob("*") if path.is_file())
    probes = [(path, name) for name, paths in known.items() for path in paths[ENROLLED:]] + [
        (p, None) for p in strangers
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        facespace.Gallery(Path(folder, "g"), embedder, create=True) as gallery,
    ):
        work = [(name, path) for name, paths in known.items() for path in paths[:ENROLLED]]
        photos = facespace.process((p for _, p in work), detector, embedder, largest=True, keep_crops=True)
        left_out = 0
        for (name, _), photo in zip(work, photos, strict=True):
            if photo.faces:
                gallery.add(name, photo.embeddings[0], photo.crops[0], source=photo.path)
            else:
                left_out += 1
        found = list(facespace.process((path for path, _ in probes), detector, embedder, largest=True))
        vectors = np.concatenate([photo.embeddings for photo in found if photo.faces])
        has_face = np.array([bool(photo.faces) for photo in found])
        truth = np.array([name or "" for _, name in probes])
        is_known = truth != ""
        print(f"{embedder.name}, {embedder.runtime} {embedder.precision}")
        print(f"{len(gallery)} people, {len(work) - left_out} photos enrolled ({left_out} without a face)")
        print(
            f"{is_known.sum()} probes of known people, {(~is_known).sum()} of strangers; without a face: {(~has_face).sum()}"
        )

        def row(label: str, **how: float) -> None:
            matches = gallery.identify(vectors, **how)
            names = np.full(len(found), "", dtype=object)
            names[has_face] = [match.name or "" for match in matches]
            right = (names == truth)[is_known].mean()
            wrong = ((names != truth) & (names != ""))[is_known].mean()
            named = (names != "")[~is_known].mean()
            threshold = np.median([m.threshold for m in matches])
            print(f"{label:<16}{threshold:>10.4f}{right:>18.4f}{wrong:>18.4f}{named:>18.4f}")

        print(f"{'':<16}{'threshold':>10}{'known named right':>18}{'known named wrong':>18}{'strangers named':>18}")
        row("default")
        for rate in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
            row(f"rate {rate:g}", rate=rate)
        for threshold in np.arange(0.30, 0.71, 0.05):
            row("fixed", threshold=float(round(threshold, 2)))


if __name__ == "__main__":
    main()
