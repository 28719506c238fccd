"""facespace enroll: add people to a gallery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facespace.cli.shared.galleries import model_of_gallery, open_gallery, parsed_metadata
from facespace.cli.shared.models import load_embedder, say_if_people_are_alike
from facespace.cli.shared.options import (
    DEFAULT_MIN_SIZE,
    Collection,
    Device,
    EmbeddingDevice,
    ExternalId,
    GalleryOrServer,
    Key,
    Largest,
    MinSize,
    OptionalModel,
    Server,
    TryRotations,
    check_gallery_or_server,
)
from facespace.cli.shared.output import Report, progress, say, turned, where, write_line
from facespace.errors import DatasetError, GalleryError
from facespace.io.text import clean_name, plain_text

if TYPE_CHECKING:
    from facespace.embedding.embedder import Embedder
    from facespace.identification.gallery import Gallery
    from facespace.pipeline.photos import Photo

# Appended to the reason why a photo was left out.
_WHAT_TO_DO = {
    "unreadable_image": "",
    "no_face": "; left out",
    "several_faces": "; left out (--largest takes the largest)",
    "poor_quality": "; left out (--any-quality takes it)",
    "other_person": "; left out (gallery reject)",
}


def enroll(
    context: typer.Context,
    gallery: GalleryOrServer = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The person's name.")] = None,
    images: Annotated[list[str] | None, typer.Argument(metavar="IMAGE", help="Photos of that person.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", metavar="DIR", help="Enroll one person per sub-folder, with the name of the sub-folder."
        ),
    ] = None,
    largest: Largest = False,
    any_quality: Annotated[
        bool,
        typer.Option("--any-quality", help="Also enroll faces that are too small or too blurred to be recognised."),
    ] = False,
    external_id: ExternalId = None,
    metadata: Annotated[
        str | None, typer.Option("--metadata", metavar="JSON", help="A small JSON object to store with each photo.")
    ] = None,
    keep_crops: Annotated[
        bool,
        typer.Option("--keep-crops", help="Store the face crops, so that another model can embed them later."),
    ] = False,
    collection: Collection = "default",
    try_rotations: TryRotations = False,
    min_size: MinSize = DEFAULT_MIN_SIZE,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
    server: Server = None,
    key: Key = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            "--journal",
            metavar="FILE",
            help="With --server: the file that records sent photos, to resume an interrupted run.",
            show_default=False,
        ),
    ] = None,
    parallel: Annotated[
        int,
        typer.Option(
            "--parallel", metavar="N", min=1, max=64, help="With --server: number of photos sent at the same time."
        ),
    ] = 4,
) -> None:
    """Add people to a gallery: `enroll --gallery G NAME IMAGE...` or `enroll --gallery G --folder DIR`.

    With `--server URL` instead of `--gallery G`, photos are sent to a service; a resumed run skips those already sent.

    A photo without a face, or with a face of too poor quality, is reported and left out; much smaller faces in the
    background are ignored. Of several faces, the one that clearly matches the person's other photos is used. Enrolling a
    photo twice has no effect.
    """
    from facespace.datasets.formats.class_folders import read_class_folders
    from facespace.pipeline.photos import find_images

    check_gallery_or_server(context, gallery, server, "keep_crops", "min_size", "device", "model")
    report = Report()
    known = parsed_metadata(metadata)
    if external_id is not None and folder is not None:
        raise typer.BadParameter(
            "applies to one person; use it with NAME IMAGE... instead of --folder", param_hint="--external-id"
        )
    if (folder is None) == (name is None):
        raise typer.BadParameter("give either NAME IMAGE... or --folder DIR")
    if folder is not None:
        if not folder.is_dir():
            raise typer.BadParameter(f"{folder} is not a folder", param_hint="--folder")
        try:
            people = read_class_folders(folder)
        except DatasetError as error:
            raise typer.BadParameter(str(error), param_hint="--folder") from None
        if not any(paths for _, paths in people):
            reason = (
                f"{folder}: no photos in its sub-folders; it must contain one folder per person, like NAME/photo.jpg"
            )
            deeper = [str(folder / name) for name, _ in people if _has_class_folders(folder / name)]
            if deeper:
                reason += (
                    f"; there are such folders in {', '.join(deeper[:3])}{' and others' if len(deeper) > 3 else ''}"
                )
            raise typer.BadParameter(reason, param_hint="--folder")
        work = [(clean_name(person), path) for person, paths in people for path in paths]
        for person, paths in people:
            if not paths:
                report.fail(str(folder / person), "no photos in this folder; its sub-folders are not searched")
    else:
        assert name is not None
        if not images:
            raise typer.BadParameter(f"no photos of {name} given", param_hint="IMAGE")
        work = [(clean_name(name), path) for path in find_images(images)]

    if server is not None:
        from facespace.cli.enroll_remote import enroll_remote

        enroll_remote(
            server, work, report, key=key, collection=collection, journal=journal, parallel=parallel,
            external_id=external_id, metadata=known, largest=largest, try_rotations=try_rotations,
            any_quality=any_quality,
        )  # fmt: skip
        report.finish()
        return
    assert gallery is not None
    made_with = model_of_gallery(gallery, collection=collection, create=True)
    embedder = load_embedder(model, device.value, made_with=made_with)
    with open_gallery(gallery, embedder, collection=collection, create=True) as opened:
        if external_id is not None:
            other = opened.store.find_external(external_id)
            if other is not None and other.state.name != work[0][0]:
                raise GalleryError(
                    f"{opened.store.name}: {other.state.name!r} already has the external id {external_id!r}"
                )
        enroller = _Enroller(
            opened, report, known or {}, largest=largest, any_quality=any_quality, keep_crops=keep_crops
        )
        n_added = enroller.run(work, embedder, min_size=min_size, try_rotations=try_rotations)
        if external_id is not None and opened.store.find(work[0][0]) is not None:
            opened.edit(work[0][0], external_id=external_id)
        say_if_people_are_alike(embedder, opened.templates(500))
        write_line(f"{n_added} photos added; {len(opened)} people in {plain_text(opened.store.name)}")
    report.finish()


def _has_class_folders(folder: Path) -> bool:
    from facespace.datasets.formats.class_folders import read_class_folders

    try:
        return any(paths for _, paths in read_class_folders(folder))
    except (DatasetError, OSError):
        return False


class _Enroller:
    """Adds the faces of photos to a gallery, and prints the result and the remarks of each photo."""

    def __init__(
        self,
        gallery: Gallery,
        report: Report,
        metadata: dict[str, Any],
        *,
        largest: bool,
        any_quality: bool,
        keep_crops: bool,
    ) -> None:
        from facespace.pipeline.enrolling import Enroller

        self._enroller = Enroller(gallery, any_quality=any_quality, keep_crops=keep_crops)
        self._report = report
        self._metadata = metadata
        self._largest = largest

    def run(self, work: list[tuple[str, str]], embedder: Embedder, *, min_size: float, try_rotations: bool) -> int:
        """Enroll photos given as (name, path); return how many were new."""
        from facespace.detection.factory import create_detector
        from facespace.pipeline.enrolling import LeftOut
        from facespace.pipeline.photos import process

        detector = create_detector(embedder.detector, min_size=min_size)
        photos = process(
            (path for _, path in work), detector, embedder, largest=self._largest, keep_crops=True,
            try_rotations=try_rotations,
        )  # fmt: skip
        n_added = 0
        for (person, _), photo in zip(work, progress(photos, len(work), "enrolling"), strict=True):
            try:
                n_added += self._add(person, photo)
            except LeftOut as left:
                self._report.fail(photo.path, f"{left.text}{_WHAT_TO_DO[left.code]}")
        return n_added

    def _add(self, person: str, photo: Photo) -> bool:
        enrolled = self._enroller.add(person, photo, metadata=self._metadata)
        for remark in enrolled.remarks:
            if remark.code != "of_several":  # printed below
                say(f"{photo.path}: {remark.text}")
        chosen = f" (the one of {len(photo.faces)} faces {where(enrolled.face)})" if enrolled.of_several else ""
        done = f"{'enrolled' if enrolled.new else 'known already'}{chosen}{turned(photo)}"
        write_line(f"{plain_text(person)}: {plain_text(photo.path)} {done}")
        return enrolled.new
