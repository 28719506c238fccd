"""facespace cluster: group unlabelled faces by person."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facespace.cli.shared.distributed import Ray, compute_with_progress, connected
from facespace.cli.shared.galleries import open_gallery
from facespace.cli.shared.models import load_embedder, name_in
from facespace.cli.shared.options import (
    DEFAULT_MIN_SIZE,
    Collection,
    Device,
    EmbeddingDevice,
    Images,
    Json,
    MinSize,
    OptionalGallery,
    OptionalModel,
    Repeats,
    TryRotations,
)
from facespace.cli.shared.output import Report, progress, progress_bar, say, turned, write_json, write_line
from facespace.errors import DatasetError
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.clustering.groups import FaceGroups
    from facespace.embedding.embedder import Embedder
    from facespace.pipeline.photos import Photo

_PER_SEARCH = 4096  # groups identified in one call


class Method(str, Enum):
    """How faces are grouped."""

    average = "average"
    whispers = "whispers"
    dbscan = "dbscan"


class PhotosOption(str, Enum):
    """Whether whole photos are added to the folders."""

    none = "none"
    copy = "copy"
    link = "link"


def cluster(
    context: typer.Context,
    images: Images,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="The folder to write to, with one folder per person.")
    ],
    method: Annotated[
        Method,
        typer.Option("--method", help="Average linkage, Chinese whispers, or DBSCAN with min_samples 1."),
    ] = Method.whispers,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            metavar="T",
            min=0.01,
            max=1,
            help="Similarity from which two faces are joined; by default from the calibration of the model.",
        ),
    ] = None,
    gallery: OptionalGallery = None,
    collection: Collection = "default",
    photos: Annotated[
        PhotosOption,
        typer.Option("--photos", help="Copy or link whole photos to each person's folder, in addition to the faces."),
    ] = PhotosOption.none,
    repeats: Repeats = False,
    json: Json = False,
    try_rotations: TryRotations = False,
    min_size: MinSize = DEFAULT_MIN_SIZE,
    device: EmbeddingDevice = Device.auto,
    model: OptionalModel = None,
    ray: Ray = None,
) -> None:
    """Find the faces in photos and sort them into folders, one per person, the largest group first.

    Run it again with more photos: known photos are not processed again, and new faces join the existing groups. You may
    rename the folders between runs. With --ray, every node must have access to the photos and DIR; see docs/scale.md.
    """
    from facespace.clustering.algorithms import pair_threshold_for, threshold_for
    from facespace.clustering.disk_graph import pairs_of_all_shards
    from facespace.clustering.folders import ALONE, POOR, keep_picture, tidy, write_folders, write_sheet, write_table
    from facespace.clustering.groups import FINDING, STAGES, STATE, FaceGroups, group_record, load_groups, read_faces
    from facespace.detection.factory import create_detector
    from facespace.embedding import calibration
    from facespace.pipeline.photos import find_images

    made_with = name_in(group_record(output / STATE).get("model")) if (output / STATE).exists() else ""
    embedder = load_embedder(model, device.value, made_with=made_with)
    if threshold is None and embedder.calibration is None:
        raise calibration.missing(embedder.name)
    if gallery:  # so that a missing gallery, or a gallery of another model, is reported before the work
        open_gallery(gallery, embedder, collection=collection).close()
    output.mkdir(parents=True, exist_ok=True)
    context.with_resource(_alone(output))
    tidy(output)
    state = output / STATE
    groups = load_groups(state, embedder) if state.exists() else FaceGroups(embedder.dimension)
    n_before = len(groups.photos)
    paths = list(find_images(images, without=output))
    report = Report()

    def keep(photo: Photo, digest: str) -> None:
        if photo.turned:
            say(f"{photo.path}{turned(photo)}")
        if ray is None:  # with Ray, the workers have saved the picture
            keep_picture(output, photo, digest)

    def find(digests: Mapping[str, str]) -> Iterator[Photo]:
        return _find_in_parts(output, digests, embedder, device, min_size, try_rotations, ray)

    def checkpoint() -> None:
        if ray is None:
            groups.save_new(state, embedder)

    try:
        for path, reason in read_faces(
            paths, groups, embedder, create_detector(embedder.detector, min_size=min_size),
            keep=keep, try_rotations=try_rotations,
            checkpoint=checkpoint, progress=progress if ray is None else lambda photos, *_: iter(photos),
            find=None if ray is None else find,
        ):  # fmt: skip
            report.fail(path, reason, json=json)
    except BaseException:
        if ray is None:  # an interrupted run resumes from here; with Ray, finished parts are kept
            groups.save(state, embedder)
        raise
    groups.save(state, embedder)
    shutil.rmtree(output / FINDING, ignore_errors=True)
    if not groups.photo:
        raise ValueError(f"no faces were found in {len(groups.photos)} photos; there is nothing to group")
    pair_threshold = threshold
    if threshold is None:
        assert embedder.calibration is not None
        threshold = threshold_for(embedder.calibration, len(groups.photo), method.value)
        pair_threshold = max(threshold, pair_threshold_for(embedder.calibration, len(groups.photo)))
    with progress_bar("grouping") as show:
        n_joined = groups.regroup(
            method=method.value,
            threshold=threshold,
            pair_threshold=pair_threshold,
            calibration=embedder.calibration,
            repeats=repeats,
            folder=output / STAGES,
            find_pairs=pairs_of_all_shards if ray is None else lambda *shards: _find_pairs_in_parts(*shards, ray=ray),
            progress=show,
        )
    names = _names(groups, gallery, collection, embedder) if gallery else {}
    shutil.rmtree(output / STAGES, ignore_errors=True)
    groups.save(state, embedder)  # saved first, so that the next run can complete an interrupted one
    places = write_folders(output, groups, names, photos=photos.value)
    write_table(output, groups, places)
    sheet = write_sheet(output, groups, places)
    people = sorted({plain_text(place.name) for place in places.values()} - {ALONE, POOR})
    if json:
        sizes = dict.fromkeys(people, 0)
        for group in groups.group.tolist():
            if places[group].name not in (ALONE, POOR):
                sizes[plain_text(places[group].name)] += 1
        write_json(
            {
                "photos": len(groups.photos),
                "faces": len(groups.photo),
                "threshold": threshold,
                "pair_threshold": pair_threshold,
                "people": sizes,
            }
        )
    else:
        write_line(
            f"{len(groups.photo)} faces in {len(groups.photos)} photos ({n_before} known before): {len(people)} people, "
            f"{sum(places[group].name == ALONE for group in groups.group.tolist())} faces without a group, "
            f"{sum(places[group].name == POOR for group in groups.group.tolist())} of too poor quality"
        )
        if n_before:
            write_line(f"{n_joined} new faces joined existing groups")
        write_line(f"method {method.value}, threshold {threshold:.4f}, for groups of two faces {pair_threshold:.4f}")
        write_line(f"-> {plain_text(str(sheet))}")
    report.finish()


def _find_in_parts(
    output: Path,
    digests: Mapping[str, str],
    embedder: Embedder,
    device: Device,
    min_size: float,
    try_rotations: bool,
    ray: str | None,
) -> Iterator[Photo]:
    """Find the faces of photos on Ray. The workers save the images of the faces, so yielded photos have no pixels."""
    from facespace.clustering.folders import tidy
    from facespace.distribution.clustering import FindingWork, begin, read_photos

    if not digests:
        return
    work = FindingWork(
        output=os.path.abspath(output), base=os.getcwd(), model=embedder.name, fingerprint=embedder.fingerprint,
        device=device.value, min_size=min_size, try_rotations=try_rotations,
    )  # fmt: skip
    work, plan = begin(work, digests)
    compute_with_progress(work, plan, ray, "finding faces")
    tidy(output)  # removes files that lost workers left behind
    yield from read_photos(work, plan)


def _find_pairs_in_parts(folder: Path, n_shards: int, threshold: float, *, ray: str | None) -> Iterator[int]:
    """Run `clustering.disk_graph.pairs_of_all_shards` on Ray."""
    from facespace.distribution.clustering import PairsWork
    from facespace.distribution.parts import compute_parts
    from facespace.distribution.plan import Plan
    from facespace.distribution.storage import Folder

    work = PairsWork(Folder(os.path.abspath(folder)), n_shards, threshold)
    with connected(ray) as session:
        yield from compute_parts(work, Plan(n_shards**2, per_part=1), session)


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Lock the folder. Raises `DatasetError` if another `cluster` has locked it."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(output / ".cluster.lock", timeout=0):
            yield
    except Timeout:
        raise DatasetError(
            f"{plain_text(str(output))}: another `facespace cluster` is using this folder; wait until it has ended"
        ) from None


def _names(groups: FaceGroups, gallery: str, collection: str, embedder: Embedder) -> dict[int, str]:
    """Return {group: name} for the groups that a gallery identifies by their mean embeddings."""
    import numpy as np

    from facespace.identification.open_set import templates

    ids, places = np.unique(groups.group, return_inverse=True)
    names: dict[int, str] = {}
    with open_gallery(gallery, embedder, collection=collection) as people:
        means = templates(places.reshape(-1), groups.embeddings(), len(ids))
        for start in range(0, len(ids), _PER_SEARCH):
            rows = slice(start, start + _PER_SEARCH)
            for group, match in zip(ids[rows].tolist(), people.identify(means[rows]), strict=True):
                if match.name:
                    names[group] = match.name
    return names
