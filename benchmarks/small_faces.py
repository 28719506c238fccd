"""Recognition of small faces: View 1 of LFW reduced in size, sface compared with casia-webface, and without mirror images.

The first photo of each pair of pairsDevTest is reduced so that the longer side of its face, as YuNet finds it, has
the given number of pixels, saved as JPEG 75, and its face is detected again; the second photo is unchanged. Both models see the
same photos, each with its own detector at its defaults. The threshold is measured for each size: the similarity reached by 1e-3 of all
pairs of a small photo and a full one of somebody else. A genuine pair whose small face is not found is a miss.

`single` compares the centred crop alone, instead of the crop and its mirror image added: half of the work.
"""

from __future__ import annotations

import argparse
import functools
import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

import facespace
import lfw
from facespace.faces.face import Face, central_face, overlaps

SIZES = (100, 60, 40, 30, 20)
ROWS = (("sface", "represent"), ("sface", "single"), ("casia-webface", "represent"))
RATE = 1e-3
FOUND = 0.3  # IoU with the face of the full photo from which a face of the small one is that face


def smaller(pixels: np.ndarray, scale: float) -> np.ndarray:
    image = Image.fromarray(pixels)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return facespace.read(buffer.getvalue())


def embedded(
    images: Iterable[np.ndarray],
    expected: list[Face | None],
    scales: list[float],
    detector: facespace.Detector,
    embedder: facespace.Embedder,
    represent: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the expected face was found in each image, and the vectors (N,D) of those that were."""
    crops, found = [], []
    photos = facespace.process(images, detector, keep_pixels=True)
    for photo, face, scale in zip(photos, expected, scales, strict=True):
        common = np.zeros(1)
        if photo.faces and face is not None:
            common = overlaps(np.array([face.box]) * scale, np.array([one.box for one in photo.faces]))[0]
        found.append(common.max() > FOUND)
        if found[-1]:
            crops.append(facespace.align(photo.pixels, photo.faces[int(common.argmax())], embedder.spec))
    return np.array(found), np.concatenate(
        [np.asarray(represent(np.stack(crops[k : k + 256]))) for k in range(0, len(crops), 256)]
    )


def single(embedder: facespace.Embedder, crops: np.ndarray) -> np.ndarray:
    assert embedder.calibration is not None
    vectors = np.asarray(embedder.embed(crops)) - embedder.calibration.center
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def centres(images: dict[str, np.ndarray], detector: facespace.Detector) -> dict[str, Face | None]:
    faces = detector_faces(images, detector)
    return {
        name: central_face(found, images[name].shape[1], images[name].shape[0]) if found else None
        for name, found in faces.items()
    }


def detector_faces(images: dict[str, np.ndarray], detector: facespace.Detector) -> dict[str, list[Face]]:
    names = list(images)
    found = []
    for start in range(0, len(names), 64):
        found += detector.detect_many([images[name] for name in names[start : start + 64]])
    return dict(zip(names, found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    args = parser.parse_args()
    folder = args.shared / "data/lfw_view1"
    pairs = lfw.pairs(folder / "pairsDevTest.txt")
    names = sorted({name for a, b, _ in pairs for name in (a, b)})
    images = {name: facespace.read(folder / "images" / name.rsplit("_", 1)[0] / f"{name}.jpg") for name in names}
    people = np.array([name.rsplit("_", 1)[0] for name in names])
    row = {name: k for k, name in enumerate(names)}
    reference = centres(images, facespace.create_detector("yunet"))
    first = [name for name in sorted({a for a, _, _ in pairs}) if reference[name] is not None]
    sides = np.array([max(reference[name].width, reference[name].height) for name in first])
    place = {name: k for k, name in enumerate(first)}
    genuine = [(a, b) for a, b, same in pairs if same]
    different = people[[row[name] for name in first]][:, None] != people[None]
    print(
        f"{len(genuine)} genuine pairs; {len(first)} photos made smaller, {len(names)} full ones of "
        f"{len(np.unique(people))} people; faces of {np.median(sides):.0f} px (median) as they are"
    )
    print(f"\n{'':24}{'face':>8}{'detected':>10}{'threshold':>11}{'true matches':>14}{'impostor pairs':>16}")
    for model, way in ROWS:
        embedder = facespace.Embedder.load(model)
        represent = embedder.represent if way == "represent" else functools.partial(single, embedder)
        detector = facespace.create_detector(embedder.detector)
        own = reference if embedder.detector == "yunet" else centres(images, detector)
        there, full = embedded(images.values(), list(own.values()), [1.0] * len(names), detector, embedder, represent)
        rows_full = np.cumsum(there) - 1
        expected = [own[name] for name in first]
        for size in (None, *SIZES):
            scales = [1.0] * len(first) if size is None else [min(1.0, size / side) for side in sides]
            small = (smaller(images[name], scale) for name, scale in zip(first, scales, strict=True))
            found, vectors = embedded(small, expected, scales, detector, embedder, represent)
            rows_small = np.cumsum(found) - 1
            similarity = vectors @ full.T
            impostors = similarity[different[found][:, there]]
            threshold = float(np.quantile(impostors, 1 - RATE))
            matched = [
                a in place
                and found[place[a]]
                and there[row[b]]
                and similarity[rows_small[place[a]], rows_full[row[b]]] >= threshold
                for a, b in genuine
            ]
            print(
                f"{f'{model}, {embedder.detector}' + (', single' if way == 'single' else ''):24}{'as it is' if size is None else f'{size} px':>8}"
                f"{found.mean():10.4f}{threshold:11.4f}{np.mean(matched):14.4f}{len(impostors):16,}",
                flush=True,
            )


if __name__ == "__main__":
    main()
