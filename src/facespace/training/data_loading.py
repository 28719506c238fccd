"""The input pipeline: stored crops decoded and augmented by worker processes, in the order the steps want them."""

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
    """The images of a dataset that are trained on, with labels 0 to P − 1.

    People with fewer than `min_images` images are left out. `kept` (N,) are the dataset's numbers of the images,
    `labels` (N,) their people, `names` (P) these people's names. `DatasetError` where fewer than two people are left.
    """

    def __init__(self, dataset: LabelledImages, *, min_images: int = 1) -> None:
        counts = np.bincount(dataset.labels, minlength=len(dataset.names))
        people = np.flatnonzero(counts >= max(1, min_images))
        if len(people) < 2:
            raise DatasetError(
                f"training wants at least two people with {max(1, min_images)} images; the dataset has {len(people)}"
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
    """Images (n,S,S,3) uint8 RGB and labels (n,) int64; `failed` are images others took the place of, with reasons."""

    images: Tensor
    labels: Tensor
    failed: list[tuple[str, str]] = field(default_factory=list)
    gone: str = ""  # why the dataset is no longer the one that training began with


class _Reader:
    """What each worker holds: the dataset, and how its images are changed."""

    def __init__(self, images: TrainingImages, augmentation: Augmentation, seed: int) -> None:
        self._images, self._augmentation, self._seed = images, augmentation, seed

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, wanted: list[tuple[int, int]]) -> Batch:
        """The images of (position in the stream, number) pairs; draws depend on seed and position alone."""
        side = self._augmentation.size
        pixels = np.empty((len(wanted), side, side, 3), np.uint8)
        failed: list[tuple[str, str]] = []
        for row, (position, number) in enumerate(wanted):
            random = np.random.default_rng([self._seed, 3, position])
            try:
                stored = self._stored(number, random, failed)
            except (DatasetError, TrainingError) as error:
                return Batch(torch.empty(0), torch.empty(0), failed, str(error))
            pixels[row] = self._augmentation.apply(stored, random)
        labels = self._images.labels[[number for _, number in wanted]]
        return Batch(torch.from_numpy(pixels), torch.from_numpy(labels), failed)

    def _stored(self, number: int, random: np.random.Generator, failed: list[tuple[str, str]]) -> npt.NDArray[np.uint8]:
        """One image, or another of the same person where it is damaged."""
        data = self._images
        for candidate in self._candidates(number, random):
            try:
                return data.dataset.read(int(data.kept[candidate]))
            except ImageError as error:
                if error.reason == "no such file":
                    raise TrainingError(
                        f"{plain_text(error.source)} was there when training began and is gone: the dataset was edited "
                        "during the run; put it back, then facespace train RUN goes on, RUN being the run's folder"
                    ) from None
                failed.append((plain_text(error.source), plain_text(error.reason)))
        raise TrainingError(
            f"no image of {plain_text(data.names[data.labels[number]])} can be read (last: {failed[-1][0]}: {failed[-1][1]}); "
            "facespace dataset check lists the damaged ones"
        )

    def _candidates(self, number: int, random: np.random.Generator) -> Iterator[int]:
        """An image, then all others of the same person, drawn without repetition."""
        yield number
        same = np.flatnonzero(self._images.labels == self._images.labels[number])
        yield from random.permutation(same[same != number]).tolist()


class _Steps:
    """For the loader: which (position, number) pairs the micro-batches of the steps from `first` on are made of."""

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
    """The order of training: shuffled, or `images_per_person` images of each of several people a batch."""
    if not images_per_person:
        return Stream(shuffled(len(images), seed=seed))
    counts = np.bincount(images.labels)
    if (counts > 1).sum() < 2:
        raise DatasetError(
            f"triplets want at least two people with two images each; of {len(counts)} people {(counts > 1).sum()} have"
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
    """The micro-batches of the steps `first` to `end`, in order: of each step those `parts` of the `n_parts` it has.

    `workers` processes read ahead; with none everything happens here. What an image looks like depends on `seed` and
    on its place in the stream, not on the number of workers or parts. Raises `TrainingError` where a file is gone,
    a person has no image that can be read, or a worker was killed.
    """
    steps = _Steps(stream, first, end, batch_size, parts, n_parts)
    options: dict[str, Any] = {}
    if workers:
        # Not fork: it would copy locks that other threads hold.
        options = {
            "multiprocessing_context": "spawn" if sys.platform == "win32" else "forkserver",
            "prefetch_factor": 2,
            "worker_init_fn": _ignore_signals,
        }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        loader: DataLoader[Batch] = DataLoader(
            _Reader(images, augmentation, seed),  # type: ignore[arg-type]
            batch_sampler=steps,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=False,
            **options,
        )
        with _sigterm_blocked():
            batches = iter(loader)
    while (batch := _next(batches)) is not None:
        if batch.gone:
            raise TrainingError(batch.gone)
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
            "a process that reads images was killed, by the system if memory ran short; go on with fewer of them: facespace "
            "train RUN workers=1, RUN being the run's folder"
        ) from None


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:  # noqa: ARG001
    """A terminal and a cluster signal every process; the one that trains finishes its step, then it ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Block SIGTERM, also in the processes that are started meanwhile: workers end when the one that forks them does."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # once it runs; starting it would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def standardized(images: Tensor, spec: InputSpec, device: torch.device) -> Tensor:
    """Crops (n,S,S,3) uint8 RGB as `spec.preprocess` makes them, but (n,3,S,S) float32 on `device`, channels last."""
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
    """SHA-256 over people, labels, and the names and sizes of the dataset's files: changes when it is edited.

    These are the images in a source's folders, or the files in it where there are none. `DatasetError` for a source
    that cannot be listed.
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
    """What a dataset is read from: not logs beside the people's folders, nor what lies deeper."""
    photos = PhotoFiles()
    images = [path for person in visible_names(folder, folders=True) for path in photos_in(folder, person, photos)]
    beside = visible_names(folder, folders=False)
    return images if images and "train.rec" not in beside else [os.path.join(folder, name) for name in beside]


def _size(file: str) -> int:
    try:
        return os.path.getsize(file)
    except OSError:  # a broken link, or removed a moment ago
        return -1
