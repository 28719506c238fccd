"""The input pipeline: worker processes decode and augment stored crops in the order in which the steps use them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from facespace.datasets.formats.class_folders import photos_in, visible_names
from facespace.datasets.protocol import LabelledImages
from facespace.errors import DatasetError, ImageError, TrainingError
from facespace.faces.input_spec import InputSpec
from facespace.io.photo_files import PhotoFiles
from facespace.io.text import plain_text
from facespace.training.augmentation import Augmentation
from facespace.training.sampling import Stream, by_people, shuffled

Ints = npt.NDArray[np.int64]


class TrainingImages:
    """The images of a dataset that are used for training, with labels 0 to P − 1.

    People with fewer than `min_images` images are left out. `kept` (N,) are the images' numbers in the dataset,
    `labels` (N,) their labels, `names` (P) the names of the labels. Raises `DatasetError` if fewer than two people
    are left.
    """

    def __init__(self, dataset: LabelledImages, *, min_images: int = 1) -> None:
        counts = np.bincount(dataset.labels, minlength=len(dataset.names))
        people = np.flatnonzero(counts >= max(1, min_images))
        if len(people) < 2:
            raise DatasetError(
                f"training needs at least two people with at least {max(1, min_images)} images each; "
                f"the dataset has {len(people)}"
            )
        self.dataset = dataset
        self.kept: Ints = np.flatnonzero(np.isin(dataset.labels, people)).astype(np.int64)
        self.labels: Ints = np.searchsorted(people, dataset.labels[self.kept]).astype(np.int64)
        self.names: Sequence[str] = [dataset.names[int(label)] for label in people]
        self.n_left_out = int((counts > 0).sum()) - len(people)

    def __len__(self) -> int:
        return len(self.kept)


@dataclass(slots=True)
class Batch:
    """Represents images (n,S,S,3) uint8 RGB and labels (n,) int64. `failed` lists replaced images, and why."""

    images: Tensor
    labels: Tensor
    failed: list[tuple[str, str]] = field(default_factory=list)
    dataset_error: str = ""  # why training cannot continue on this dataset


class _Reader:
    """The map-style dataset of each worker process: it reads and augments the images of one batch."""

    def __init__(self, images: TrainingImages, augmentation: Augmentation, seed: int) -> None:
        self._images, self._augmentation, self._seed = images, augmentation, seed

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, entries: list[tuple[int, int]]) -> Batch:
        """Return the batch of (position in the stream, image number) pairs; draws depend on seed and position alone."""
        side = self._augmentation.size
        pixels = np.empty((len(entries), side, side, 3), np.uint8)
        failed: list[tuple[str, str]] = []
        for row, (position, number) in enumerate(entries):
            random = np.random.default_rng([self._seed, 3, position])
            try:
                stored = self._stored(number, random, failed)
            except (DatasetError, TrainingError) as error:
                return Batch(torch.empty(0), torch.empty(0), failed, str(error))
            pixels[row] = self._augmentation.apply(stored, random)
        labels = self._images.labels[[number for _, number in entries]]
        return Batch(torch.from_numpy(pixels), torch.from_numpy(labels), failed)

    def _stored(self, number: int, random: np.random.Generator, failed: list[tuple[str, str]]) -> npt.NDArray[np.uint8]:
        """Read an image. If it is damaged, add it to `failed` and read another image of the same person."""
        data = self._images
        for candidate in self._candidates(number, random):
            try:
                return data.dataset.read(int(data.kept[candidate]))
            except ImageError as error:
                if error.reason == "no such file":
                    raise TrainingError(
                        f"{plain_text(error.source)} existed when training began and is missing now: the dataset was edited "
                        "during the run; put it back, then resume with facespace train RUN, where RUN is the run's folder"
                    ) from None
                failed.append((plain_text(error.source), plain_text(error.reason)))
        raise TrainingError(
            f"no image of {plain_text(data.names[data.labels[number]])} can be read (last: {failed[-1][0]}: {failed[-1][1]}); "
            "facespace dataset check lists the damaged ones"
        )

    def _candidates(self, number: int, random: np.random.Generator) -> Iterator[int]:
        """Yield the number of the image, then those of the same person's other images in random order."""
        yield number
        same = np.flatnonzero(self._images.labels == self._images.labels[number])
        yield from random.permutation(same[same != number]).tolist()


class _BatchSampler:
    """Yields the (position, image number) pairs of each micro-batch of the steps from `first` to before `end`."""

    def __init__(self, stream: Stream, first: int, end: int, batch_size: int, parts: range, n_parts: int) -> None:
        self._stream, self._first, self._end = stream, first, end
        self._batch_size, self._parts, self._n_parts = batch_size, parts, n_parts

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        size = self._batch_size // self._n_parts
        for step in range(self._first, self._end):
            start = step * self._batch_size
            numbers = self._stream.part(start, self._batch_size).tolist()
            for part in self._parts:
                begin = part * size
                yield list(enumerate(numbers[begin : begin + size], start + begin))

    def __len__(self) -> int:
        return (self._end - self._first) * len(self._parts)


def stream_of(images: TrainingImages, *, images_per_person: int, seed: int) -> Stream:
    """Return the order of the images: shuffled if `images_per_person` is 0, else as in `sampling.by_people`."""
    if not images_per_person:
        return Stream(shuffled(len(images), seed=seed))
    counts = np.bincount(images.labels)
    if (counts > 1).sum() < 2:
        raise DatasetError(
            f"triplets need at least two people with two images each; {(counts > 1).sum()} of {len(counts)} people have them"
        )
    return Stream(by_people(images.labels, images_per_person, seed=seed))


def open_batches(
    images: TrainingImages,
    augmentation: Augmentation,
    stream: Stream,
    *,
    first: int,
    end: int,
    batch_size: int,
    parts: range,
    n_parts: int,
    workers: int,
    seed: int,
    pin: bool = False,
) -> Generator[Batch]:
    """Yield micro-batches of the steps from `first` to before `end`, in order.

    A step has `n_parts` micro-batches; those with numbers in `parts` are yielded.

    `workers` processes read ahead; with 0 this process reads. How an image is augmented depends on `seed` and on its
    position in the stream, not on the number of workers or parts. Raises `TrainingError` if a file is gone, if no
    image of a person can be read, or if a worker was killed.
    """
    sampler = _BatchSampler(stream, first, end, batch_size, parts, n_parts)
    options: dict[str, Any] = {}
    if workers:
        # Not fork: it would copy locks that other threads have taken.
        options = {
            "multiprocessing_context": "spawn" if sys.platform == "win32" else "forkserver",
            "prefetch_factor": 2,
            "worker_init_fn": _ignore_signals,
        }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        loader: DataLoader[Batch] = DataLoader(
            _Reader(images, augmentation, seed),  # type: ignore[arg-type]
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=False,
            **options,
        )
        with _sigterm_blocked():
            batches = iter(loader)
    while (batch := _next(batches)) is not None:
        if batch.dataset_error:
            raise TrainingError(batch.dataset_error)
        if pin:
            batch.images, batch.labels = batch.images.pin_memory(), batch.labels.pin_memory()
        yield batch


def _next(batches: Iterator[Batch]) -> Batch | None:
    try:
        return next(batches, None)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise TrainingError(
            "a process that reads images was killed, perhaps by the system because memory ran out; resume with fewer: "
            "facespace train RUN workers=1, where RUN is the run's folder"
        ) from None


def _unchanged(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:  # noqa: ARG001
    """Ignore signals in a worker: terminals and clusters send them to all processes; the trainer ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Block SIGTERM in the block and in processes started in it: the fork server must not end before the training."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # before blocking: its start unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def standardized(images: Tensor, spec: InputSpec, device: torch.device) -> Tensor:
    """Preprocess crops (n,S,S,3) uint8 RGB as `spec.preprocess` does, into (n,3,S,S) float32, channels last, on `device`."""
    pixels = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
    if spec.channel_order == "BGR":
        pixels = pixels.flip(1)
    if spec.standardization == "fixed":
        pixels = (pixels - spec.mean) / spec.std
    else:
        deviation, mean = torch.std_mean(pixels, (1, 2, 3), correction=0, keepdim=True)
        pixels = (pixels - mean) / deviation.clamp_min(pixels[0].numel() ** -0.5)
    return pixels.contiguous(memory_format=torch.channels_last)


def fingerprint(images: TrainingImages, sources: Sequence[str]) -> str:
    """Return the SHA-256 of the people's names, the labels, and the names and sizes of the dataset's files.

    It changes when files are added, removed, renamed or get another size. The files are the images in a source's class
    folders. If the source contains a `train.rec` or has no such images, they are the files in the source itself. Raises
    `DatasetError` if a source cannot be listed.
    """
    digest = hashlib.sha256()
    for name in images.names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    digest.update(images.labels.tobytes())
    for source in sources:
        path = os.path.expanduser(source)
        try:
            files = [path] if os.path.isfile(path) else _files(path)
        except OSError as error:
            raise DatasetError(f"{plain_text(path)}: the folder cannot be listed ({error.strerror})") from None
        for file in files:
            name = os.path.relpath(file, path) if file != path else os.path.basename(path)
            digest.update(f"{name}\0{_size(file)}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files(folder: str) -> list[str]:
    """Return the files that a dataset is read from.

    These are the images in class folders, or the files in the folder itself if it has no such images or a `train.rec`.
    """
    photos = PhotoFiles()
    images = [path for person in visible_names(folder, folders=True) for path in photos_in(folder, person, photos)]
    names = visible_names(folder, folders=False)
    return images if images and "train.rec" not in names else [os.path.join(folder, name) for name in names]


def _size(file: str) -> int:
    try:
        return os.path.getsize(file)
    except OSError:  # a broken link, or just removed
        return -1
