"""Faces that extend beyond their photo, rotated photos, and networks whose embeddings are all alike.

- Photos of the album are cut inside the face's box: how many faces are found in the first search, and how many with a border
  of various widths and contents on a reduced photo.
- Pictures without a face, cut from the backgrounds of group photos and of the album: what the second search finds in them.
- Photos in four rotations: which rotation is chosen by the plain sum of the scores and by `pipeline.rotations`.
- The lowest cosine over faces of eight people and over `embedding.collapse.different_pictures`, for models and for networks
  with random weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import facespace
from facespace.backbones.registry import create
from facespace.detection.factory import DETECTORS, create_detector
from facespace.detection.protocol import Detector
from facespace.embedding.collapse import different_pictures, lowest_cosine
from facespace.embedding.embedder import Embedder
from facespace.faces.face import Face
from facespace.faces.input_spec import INPUT_SPECS
from facespace.pipeline import second_look
from facespace.pipeline.rotations import TURNS, surest_turn, turn
from facespace.runtime.torch_network import TorchNetwork

Pixels = np.ndarray
INSETS = (0.05, 0.1, 0.15, 0.2)
SIDES = (60, 100, 150, 220, 320, 450)  # pixels of the pictures without a face


def portraits(album: Path, n: int) -> Iterator[tuple[Pixels, Face]]:
    """Photos spread over the album, with the largest face of each."""
    files = sorted(file for file in album.glob("*/*/*") if file.is_file())
    detector = create_detector("yunet")
    for file in files[:: len(files) // n][:n]:
        pixels = facespace.read(file)
        if faces := detector.detect(pixels):
            yield pixels, max(faces, key=lambda face: face.width * face.height)


def cut(pixels: Pixels, face: Face, share: float) -> Pixels:
    """The photo inside the face's box."""
    x1, y1, x2, y2 = face.box
    dx, dy = share * face.width, share * face.height
    return np.ascontiguousarray(
        pixels[max(round(y1 + dy), 0) : round(y2 - dy), max(round(x1 + dx), 0) : round(x2 - dx)]
    )


def with_border(photo: Pixels, width: float, content: str) -> Pixels:
    """The photo with its shorter side at most 160 px and a border of that share of it."""
    factor = min(1.0, 160 / min(photo.shape[:2]))
    size = max(1, round(photo.shape[1] * factor)), max(1, round(photo.shape[0] * factor))
    photo = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
    n = max(1, round(width * min(photo.shape[:2])))
    if content == "replicate":
        return np.pad(photo, ((n, n), (n, n), (0, 0)), mode="edge")
    out = np.empty((photo.shape[0] + 2 * n, photo.shape[1] + 2 * n, 3), np.uint8)
    out[:] = {"black": np.zeros(3), "grey": np.full(3, 127), "mean": photo.mean(axis=(0, 1))}[content]
    out[n:-n, n:-n] = photo
    return out


def found(detector: Detector, photos: list[Pixels]) -> float:
    """The share of photos with a face that fills most of it."""
    sure = second_look._LEAST_SCORE
    return float(np.mean([any(face.score >= sure for face in faces) for faces in detector.detect_many(photos)]))


def cut_faces(name: str, people: list[tuple[Pixels, Face]]) -> None:
    detector = create_detector(name)
    photos = {share: [cut(pixels, face, share) for pixels, face in people] for share in INSETS}

    def row(label: str, found_at: Callable[[float], float]) -> None:
        print(f"{name:6} {label:24}" + "".join(f"{found_at(share):8.2f}" for share in INSETS))

    print(f"\n{name}: faces found in {len(people)} photos cut inside the box by {', '.join(map(str, INSETS))} of it")
    row("first look", lambda share: found(detector, photos[share]))
    for content in ("grey", "mean", "black", "replicate"):
        for width in (0.25, 0.5, 1.0):
            row(
                f"{content}, width {width}",
                lambda share, c=content, w=width: found(detector, [with_border(p, w, c) for p in photos[share]]),
            )
    row(
        "as it is done",
        lambda share: float(np.mean([bool(f) for f in second_look.find_with_second_look(photos[share], detector)])),
    )


def backgrounds(folders: list[Path], per_photo: int) -> list[Pixels]:
    """Parts of photos that no face comes near, as a detector of doubtful faces sees it."""
    rng = np.random.default_rng(7)
    doubtful = create_detector("yunet", min_score=0.3)
    pictures = []
    files = [file for folder in folders for file in sorted(folder.glob("*.jpg"))]
    for file in files:
        pixels = facespace.read(file)
        factor = min(1.0, 1600 / max(pixels.shape[:2]))
        size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
        pixels = np.asarray(Image.fromarray(pixels).resize(size))
        boxes = np.array([face.box for face in doubtful.detect(pixels)]).reshape(-1, 4)
        margin = 0.35 * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0, keepdims=True)
        low, high = boxes[:, :2] - margin, boxes[:, 2:] + margin
        for _ in range(900):
            side = min(int(rng.choice(SIDES)), *pixels.shape[:2])
            corner = np.array(
                [rng.integers(0, pixels.shape[1] - side + 1), rng.integers(0, pixels.shape[0] - side + 1)]
            )
            if not ((high > corner) & (low < corner + side)).all(axis=1).any():
                x, y = corner
                pictures.append(np.ascontiguousarray(pixels[y : y + side, x : x + side]))
            if len(pictures) >= per_photo * (files.index(file) + 1):
                break
    return pictures


def without_faces(pictures: list[Pixels]) -> None:
    for name, step in (("yunet", 1), ("mtcnn", 8)):
        detector, part = create_detector(name), pictures[::step]
        first = detector.detect_many(part)
        empty = [picture for picture, faces in zip(part, first, strict=True) if not faces]
        again = [detector.detect_many([with_border(picture, 0.5, "grey")])[0] for picture in empty]
        scores = sorted((round(face.score, 3) for faces in again for face in faces), reverse=True)
        kept = sum(bool(faces) for faces in second_look.look_again(empty, detector))
        print(
            f"{name}: {len(part)} pictures without a face; at the first look {len(part) - len(empty)} give one, with a "
            f"border {sum(map(bool, again))} of the others (scores {scores}), {kept} of them count"
        )


def turned(files: list[Path]) -> None:
    for name in DETECTORS:
        detector = create_detector(name)
        rights = {"sum of scores": [0, 0, 0], "rotations": [0, 0, 0]}
        for file in files[:: 1 if name == "yunet" else 2]:
            pixels = facespace.read(file)
            factor = min(1.0, 800 / max(pixels.shape[:2]))
            size = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
            pixels = np.asarray(Image.fromarray(pixels).resize(size))
            faces = detector.detect_many([turn(pixels, degrees) for degrees in TURNS])
            if not any(faces):
                continue
            for shown in range(4):  # as if the photo had come so that turn number `shown` is upright
                order = [faces[(k - shown) % 4] for k in range(4)]
                sums = [sum(face.score for face in of_turn) for of_turn in order]
                for rule, chosen in (("sum of scores", int(np.argmax(sums))), ("rotations", surest_turn(order))):
                    rights[rule][0 if shown == 0 else 1] += chosen == shown
                    rights[rule][2] += shown == 0
        for rule, (upright, others, n) in rights.items():
            print(
                f"{name:6} {rule:14} {n} photos: upright ones kept {upright / n:.3f}, turned ones right {others / 3 / n:.3f}"
            )


def alike(people: list[tuple[Pixels, Face]]) -> None:
    def row(label: str, embedder: Embedder) -> None:
        faces = np.stack([facespace.align(pixels, face, embedder.spec) for pixels, face in people])
        pictures = different_pictures(embedder.spec.size)
        of_faces, of_pictures = lowest_cosine(embedder.embed(faces)), lowest_cosine(embedder.embed(pictures))
        print(f"{label:34} {of_faces:9.5f} {of_pictures:9.5f}")

    print(f"\n{'lowest cosine over':34} {len(people):3} faces  pictures")
    for model in ("sface", "casia-webface"):
        row(model, Embedder.load(model, precision="float32"))
    for network, spec in (
        ("inception-resnet-v1", "facenet-2018"),
        ("squeezenet", "facenet-2018"),
        ("mobilefacenet", "arcface-112"),
        ("tiny", "arcface-112"),
    ):
        torch.manual_seed(0)
        backbone = TorchNetwork(create(network), precision="float32")
        row(f"{network}, random weights", Embedder(backbone, name=network, spec=INPUT_SPECS[spec], fingerprint=""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path(__file__).parents[2] / "shared" / "data")
    data = parser.parse_args().data
    people = list(portraits(data / "album", 40))
    for name in DETECTORS:
        cut_faces(name, people[::2])
    print()
    without_faces(backgrounds([data / "groups", data / "photos"], 80))
    print()
    photos = sorted(file for file in (data / "album").glob("*/*/*") if file.is_file())[::4]
    others = [file for folder in ("groups", "photos") for file in sorted((data / folder).glob("*.jpg"))]
    turned([*photos, *(file for file in others if file.name != "dogs.jpg")])
    alike(people[:12])


if __name__ == "__main__":
    main()
