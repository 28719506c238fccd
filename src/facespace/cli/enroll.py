"""facespace enroll: whom to know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facespace.cli.shared.models import load_embedder, model_of_gallery, say_if_people_are_alike
from facespace.cli.shared.options import (
    DEFAULT_MIN_SIZE,
    Device,
    EmbeddingDevice,
    GalleryFile,
    Largest,
    MinSize,
    OptionalModel,
    TryRotations,
)
from facespace.cli.shared.output import Report, progress, say, turned, write_line
from facespace.errors import DatasetError
from facespace.io.text import clean_name, plain_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from facespace.embedding.embedder import Embedder
    from facespace.identification.gallery import Gallery

_GOOD = 0.5  # quality below which a face is enrolled with a warning


def enroll(
    gallery: GalleryFile,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The person's name.")] = None,
    images: Annotated[list[str] | None, typer.Argument(metavar="IMAGE", help="Photos of that person alone.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Enrol one person a sub-folder, named like it.")
    ] = None,
    largest: Largest = False,
    any_quality: Annotated[
        bool, typer.Option("--any-quality", help="Enrol faces too that are too small or too blurred to be recognised.")
    ] = False,
    try_rotations: TryRotations = False,
    min_size: MinSize = DEFAULT_MIN_SIZE,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
) -> None:
    """Add people to a gallery: `enroll --gallery G NAME IMAGE...` or `enroll --gallery G --folder DIR`.

    A photo without a face, with several, or with a face too poor to be recognised is reported and left out; far smaller
    faces in the background do not count. Enrolling a photo twice changes nothing.
    """
    from facespace.datasets.formats.class_folders import read_class_folders
    from facespace.pipeline.photos import find_images

    report = Report()
    if (folder is None) == (name is None):
        raise typer.BadParameter("wants either NAME IMAGE... or --folder DIR")
    if folder is not None:
        if not folder.is_dir():
            raise typer.BadParameter(f"{folder} is not a folder", param_hint="--folder")
        try:
            people = read_class_folders(folder)
        except DatasetError as error:
            raise typer.BadParameter(str(error), param_hint="--folder") from None
        if not any(paths for _, paths in people):
            reason = f"{folder}: no photos in its folders; it must hold one folder per person, like NAME/photo.jpg"
            deeper = [str(folder / name) for name, _ in people if _has_class_folders(folder / name)]
            if deeper:
                reason += f"; such folders are in {', '.join(deeper[:3])}{' and others' if len(deeper) > 3 else ''}"
            raise typer.BadParameter(reason, param_hint="--folder")
        work = [(clean_name(person), path) for person, paths in people for path in paths]
        for person, paths in people:
            if not paths:
                report.fail(str(folder / person), "no photos in this folder; folders within it are not searched")
    else:
        assert name is not None
        if not images:
            raise typer.BadParameter(f"no photos of {name} given", param_hint="IMAGE")
        work = [(clean_name(name), path) for path in find_images(images)]

    embedder = load_embedder(model, device.value, made_with=model_of_gallery(gallery, create=True))
    _enroll(
        work, report, gallery, embedder, largest=largest, any_quality=any_quality, min_size=min_size,
        try_rotations=try_rotations,
    )  # fmt: skip


def _has_class_folders(folder: Path) -> bool:
    from facespace.datasets.formats.class_folders import read_class_folders

    try:
        return any(paths for _, paths in read_class_folders(folder))
    except (DatasetError, OSError):
        return False


def _enroll(
    work: list[tuple[str, str]],
    report: Report,
    path: Path,
    embedder: Embedder,
    *,
    largest: bool,
    any_quality: bool,
    min_size: float,
    try_rotations: bool,
) -> None:
    from facespace.detection.factory import create_detector
    from facespace.faces.face import clear_face
    from facespace.faces.quality import weakness
    from facespace.identification.gallery import Gallery
    from facespace.pipeline.photos import process

    n_added = 0
    with Gallery(path, embedder, create=True) as gallery:
        detector = create_detector(embedder.detector, min_size=min_size)
        photos = process(
            (p for _, p in work), detector, embedder, largest=largest, keep_crops=True, try_rotations=try_rotations
        )
        for (person, _), photo in zip(work, progress(photos, len(work), "enrolling"), strict=True):
            if photo.error is not None:
                report.fail(photo.path, photo.error)
                continue
            face = clear_face(photo.faces)
            if face is None:
                n = len(photo.faces)
                hint = f"{n} faces, one expected (--largest takes the largest)" if n else "no face found"
                report.fail(photo.path, f"{hint}; left out")
                continue
            if (reason := weakness(face)) and not any_quality:
                report.fail(photo.path, f"{reason} (quality {face.quality:.2f}); left out (--any-quality takes it)")
                continue
            row = photo.faces.index(face)
            vector = photo.embeddings[row]
            if face.quality is not None and face.quality < _GOOD:
                say(f"{photo.path}: of poor quality ({face.quality:.2f}); {person} may not be recognised by it")
            if other := _resembles(gallery, embedder, person, vector):
                say(f"{photo.path}: resembles {other}, who is enrolled; is {person} the same person?")
            new = gallery.add(person, vector, photo.crops[row], source=photo.path, quality=face.quality)
            n_added += new
            done = f"{'enrolled' if new else 'known already'}{turned(photo)}"
            write_line(f"{plain_text(person)}: {plain_text(photo.path)} {done}")
        say_if_people_are_alike(embedder, gallery.templates(500))
        write_line(f"{n_added} photos added; {len(gallery)} people in {path}")
    report.finish()


def _resembles(gallery: Gallery, embedder: Embedder, person: str, vector: npt.NDArray[np.float32]) -> str:
    """Another enrolled person by whose name this face would be called, or nothing."""
    if embedder.calibration is None or not len(gallery):
        return ""
    matches = gallery.identify(vector, top=2)[0]
    return next((match.name for match in matches if match.name is not None and match.name != person), "")
