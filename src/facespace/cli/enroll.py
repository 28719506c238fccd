"""facespace enroll: whom to know."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facespace.cli.shared.models import load_embedder
from facespace.cli.shared.options import DEFAULT_MIN_SIZE, Device, EmbeddingDevice, GalleryFile, Largest, MinSize, Model
from facespace.cli.shared.output import Report, progress, write_line
from facespace.io.text import clean_name, plain_text

if TYPE_CHECKING:
    from facespace.embedding.embedder import Embedder


def enroll(
    gallery: GalleryFile,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The person's name.")] = None,
    images: Annotated[list[str] | None, typer.Argument(metavar="IMAGE", help="Photos of that person alone.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Enrol one person a sub-folder, named like it.")
    ] = None,
    largest: Largest = False,
    min_size: MinSize = DEFAULT_MIN_SIZE,
    device: EmbeddingDevice = Device.auto,
    model: Model = "casia-webface",
) -> None:
    """Add people to a gallery: `enroll --gallery G NAME IMAGE...` or `enroll --gallery G --folder DIR`.

    A photo without a face, or with several, is reported and left out. Enrolling a photo twice changes nothing.
    """
    from facespace.pipeline.photos import find_images

    if (folder is None) == (name is None):
        raise typer.BadParameter("wants either NAME IMAGE... or --folder DIR")
    if folder is not None:
        if not folder.is_dir():
            raise typer.BadParameter(f"{folder} is not a folder", param_hint="--folder")
        people = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
        if not people:
            raise typer.BadParameter(f"{folder} has no sub-folders, one a person", param_hint="--folder")
        work = [(clean_name(person), path) for person in people for path in find_images([folder / person])]
    else:
        assert name is not None
        if not images:
            raise typer.BadParameter(f"no photos of {name} given", param_hint="IMAGE")
        work = [(clean_name(name), path) for path in find_images(images)]

    _enroll(work, gallery, load_embedder(model, device.value), largest, min_size)


def _enroll(work: list[tuple[str, str]], path: Path, embedder: Embedder, largest: bool, min_size: float) -> None:
    from facespace.detection.factory import create_detector
    from facespace.identification.gallery import Gallery
    from facespace.pipeline.photos import process

    report = Report()
    n_added = 0
    with Gallery(path, embedder, create=True) as gallery:
        photos = process(
            (p for _, p in work), create_detector(min_size=min_size), embedder, largest=largest, keep_crops=True
        )
        for (person, _), photo in zip(work, progress(photos, len(work), "enrolling"), strict=True):
            if photo.error is not None:
                report.fail(photo.path, photo.error)
            elif len(photo.faces) != 1:
                n = len(photo.faces)
                hint = f"{n} faces, one wanted (--largest takes the largest)" if n else "no face found"
                report.fail(photo.path, f"{hint}; left out")
            else:
                new = gallery.add(person, photo.embeddings[0], photo.crops[0], source=photo.path)
                n_added += new
                write_line(f"{plain_text(person)}: {plain_text(photo.path)} {'enrolled' if new else 'known already'}")
        write_line(f"{n_added} photos added; {len(gallery)} people in {path}")
    report.finish()
