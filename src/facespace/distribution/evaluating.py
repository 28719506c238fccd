"""`verify` in parts: each part of a pair list's photos becomes an `.npz`, and all parts become the list's embeddings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from facespace.datasets.pairs.pair_sets import PairSet, PairSource
from facespace.distribution.archives import as_archive, damaged, read_archives
from facespace.distribution.network_work import NetworkWork
from facespace.distribution.parts import remove_parts
from facespace.distribution.plan import Plan, make_plan, read_pairs, variables
from facespace.distribution.storage import Folder
from facespace.embedding.embedder import Embedder
from facespace.errors import DatasetError
from facespace.evaluation.pairs import BATCH, Flip, Represented, empty, represent
from facespace.io.checksums import sha256_of

PER_PART = BATCH  # photos
_COLUMNS = ("numbers", "embeddings", "failed", "reasons", "pictured", "thumbnail_ends", "thumbnails")


@dataclass(frozen=True)
class EvaluatingWork(NetworkWork):
    """The `parts.Work` that embeds the photos of a list of pairs.

    `source` has absolute paths, which all workers see. With `thumbnails`, small pictures of the crops are kept
    for the report.
    """

    folder: Folder
    source: PairSource
    flip: Flip
    thumbnails: bool

    def settings(self) -> dict[str, Any]:
        """Return everything except the photos that the results depend on."""
        return {
            "command": "verify",
            "list": sha256_of(self.source.path),
            "images": str(self.source.root),
            "aligned": self.source.aligned,
            "model": self.fingerprint,
            "device": self.device,
            "flip": self.flip,
            "thumbnails": self.thumbnails,
            **variables(),
        }

    def compute(self, number: int) -> None:
        """Embed the photos of a part like `evaluation.pairs.represent`."""
        embedder, detector = self.networks()
        pairs = _read(self.source, embedder)
        photos = read_pairs(self.folder, number)
        if any(k >= len(pairs.files) or pairs.pairs.photos[k] != name or pairs.files[k] is None for k, name in photos):
            raise DatasetError(
                f"{pairs.name}: a worker does not see the same photos as the machine where the command was started"
            )
        numbers = [k for k, _ in photos]
        seen = represent(
            pairs, embedder, detector,
            flip=self.flip, keep_thumbnails=self.thumbnails, progress=lambda _: None, numbers=numbers,
        )  # fmt: skip
        archive = as_archive(
            numbers=np.array(numbers, np.int64),
            embeddings=seen.embeddings[numbers],
            failed=np.array(list(seen.failed), np.int64),
            reasons=np.array(list(seen.failed.values()), np.str_),
            pictured=np.array(list(seen.thumbnails), np.int64),
            thumbnail_ends=np.cumsum([len(picture) for picture in seen.thumbnails.values()], dtype=np.int64),
            thumbnails=np.frombuffer(b"".join(seen.thumbnails.values()), np.uint8),
        )
        self.folder.create(self.result(number), archive)


def begin(work: EvaluatingWork, pairs: PairSet) -> Plan:
    """Return the plan of a run: a new one, or an existing one to resume. It has the listed photos whose files exist."""
    entries = (json.dumps([k, pairs.pairs.photos[k]]) for k, file in enumerate(pairs.files) if file is not None)
    return make_plan(work.folder, entries, work.settings(), per_part=PER_PART)


def finish(work: EvaluatingWork, plan: Plan, pairs: PairSet, dimension: int) -> Represented:
    """Join the results of all parts and remove their files. Return what `represent` returns for the whole list."""
    seen = empty(pairs, dimension, work.flip)
    for number, part in enumerate(read_archives(work, plan, _COLUMNS)):
        try:
            seen.embeddings[part["numbers"]] = part["embeddings"]
            seen.failed.update(zip(part["failed"].tolist(), part["reasons"].tolist(), strict=True))
            pictures = np.split(part["thumbnails"], part["thumbnail_ends"][:-1])
            seen.thumbnails.update(
                (k, picture.tobytes()) for k, picture in zip(part["pictured"].tolist(), pictures, strict=False)
            )
        except (ValueError, IndexError):
            raise damaged(work.folder, work.result(number)) from None
    remove_parts(work, plan)
    return seen


@lru_cache(maxsize=2)
def _read(source: PairSource, embedder: Embedder) -> PairSet:
    return source.read(embedder.spec)
