"""The demo: enrols two people and identifies a group, using five pictures that come with Python packages.

The portraits are in the public domain: Grace Hopper (U.S. Navy, in matplotlib's sample data) and Eileen Collins (NASA,
in scikit-image's data). The group also shows a photographer who is not enrolled and a cat (both CC0, scikit-image).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from facespace.detection.factory import create_detector
from facespace.embedding.embedder import Embedder
from facespace.errors import FacespaceError
from facespace.faces.drawing import KNOWN, UNKNOWN, annotate, numbered
from facespace.identification.gallery import Gallery
from facespace.identification.matching import Match
from facespace.io import image, pictures
from facespace.io.package_files import file_of_distribution
from facespace.pipeline.photos import Photo, process

PORTRAITS = {
    "Grace Hopper": ("matplotlib", "grace_hopper.jpg"),
    "Eileen Collins": ("scikit-image", "astronaut.png"),
}
_STRANGER = ("scikit-image", "camera.png")
_CAT = ("scikit-image", "chelsea.png")
_TILE = 420


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The demo's output.

    `photo` is the group picture. `matches` and `expected` list the match and the true name (None for a stranger) of
    each of its faces. `picture` and `gallery` are the files written.
    """

    photo: Photo
    matches: list[Match]
    expected: list[str | None]
    picture: Path
    gallery: Path


def run(folder: Path) -> DemoResult:
    """Enrol, build the group picture, identify, and write the results into `folder`, replacing those of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: _sample(*place) for name, place in PORTRAITS.items()}
    group_file, gallery_file, picture = folder / "group.jpg", folder / "people.gallery", folder / "group-named.jpg"
    for old in folder.glob(f"{gallery_file.name}*"):
        old.unlink()
    tiles = _tiles(files)
    pictures.save(_compose([tile for tile, _ in tiles]), group_file, "JPEG", quality=92)

    embedder = Embedder.load()
    detector = create_detector(embedder.detector)
    with Gallery(gallery_file, embedder, create=True) as gallery:
        portraits = process(map(str, files.values()), detector, embedder, largest=True, keep_crops=True)
        for name, portrait in zip(files, portraits, strict=True):
            gallery.add(name, portrait.embeddings[0], portrait.crops[0], source=portrait.path)
        (photo,) = process([str(group_file)], detector, embedder, keep_pixels=True)
        matches = gallery.identify(photo.embeddings)
    assert photo.pixels is not None
    labels = numbered([match.name or "unknown" for match in matches])
    colors = [KNOWN if match.name else UNKNOWN for match in matches]
    pictures.save(annotate(photo.pixels, photo.faces, labels, colors), picture, "JPEG", quality=92)
    expected = [tiles[_tile_of(face.box)][1] for face in photo.faces]
    return DemoResult(photo, matches, expected, picture, gallery_file)


def _sample(package: str, file_name: str) -> Path:
    try:
        return file_of_distribution(package, file_name)
    except PackageNotFoundError:
        raise FacespaceError(f"the demo's pictures come with {package}: pip install 'facespace[demo]'") from None
    except FileNotFoundError:
        raise FacespaceError(f"this version of {package} has no {file_name}; the demo cannot run with it") from None


def _tiles(files: dict[str, Path]) -> list[tuple[Image.Image, str | None]]:
    """Return the group's tiles as (picture, name or None). Those of enrolled people are altered copies of portraits."""
    hopper, collins = (Image.fromarray(image.read(files[name])) for name in PORTRAITS)
    stranger, cat = (Image.fromarray(image.read(_sample(*place))) for place in (_STRANGER, _CAT))
    changes: list[tuple[Image.Image, Callable[[Image.Image], Image.Image], str | None]] = [
        (hopper, lambda p: ImageEnhance.Brightness(ImageOps.mirror(p)).enhance(0.6), "Grace Hopper"),
        (stranger, lambda p: p, None),
        (collins, lambda p: p.rotate(12, Image.Resampling.BICUBIC, fillcolor=(120, 120, 120)), "Eileen Collins"),
        (collins, lambda p: ImageOps.grayscale(ImageOps.mirror(p)).convert("RGB"), "Eileen Collins"),
        (cat, lambda p: p, None),
        (hopper, lambda p: _recompressed(ImageEnhance.Contrast(p.resize((170, 200))).enhance(1.3)), "Grace Hopper"),
    ]
    return [
        (ImageOps.fit(change(picture), (_TILE, _TILE), centering=(0.5, 0.3)), name) for picture, change, name in changes
    ]


def _recompressed(picture: Image.Image) -> Image.Image:
    return Image.fromarray(image.read(pictures.encode(picture, "JPEG", quality=25)))


def _compose(tiles: list[Image.Image]) -> Image.Image:
    group = Image.new("RGB", (3 * _TILE, 2 * _TILE))
    for k, tile in enumerate(tiles):
        group.paste(tile, (k % 3 * _TILE, k // 3 * _TILE))
    return group


def _tile_of(box: tuple[float, float, float, float]) -> int:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return int(y // _TILE) * 3 + int(x // _TILE)
