"""The base class of work that embeds photos in parts: it has a model and a device, and writes one archive per part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from facespace.detection.factory import create_detector
from facespace.detection.protocol import Detector
from facespace.distribution.plan import result_name
from facespace.embedding.embedder import Embedder
from facespace.errors import ModelError
from facespace.runtime.devices import Device


@dataclass(frozen=True, kw_only=True)
class NetworkWork:
    """Base class of a `parts.Work` that embeds photos with `model`; `fingerprint` identifies the model's content."""

    model: str
    fingerprint: str
    device: Device

    @property
    def gpu(self) -> bool:
        """Whether the embeddings are computed on a GPU."""
        return self.device == "cuda"

    def result(self, number: int) -> str:
        """Return the name of a part's archive.

        >>> NetworkWork(model="sface", fingerprint="", device="auto").result(12)
        'part-0000012.npz'
        """
        return result_name(number, "npz")

    def networks(self, min_size: float | None = None) -> tuple[Embedder, Detector]:
        """Return the embedder and its detector, which finds faces of `min_size` pixels or more (None: its own default).

        A worker keeps both for its next part. Raises `ModelError` if another model has that name on this machine.
        """
        embedder, detector = _load(self.model, self.device, min_size)
        if embedder.fingerprint != self.fingerprint:
            raise ModelError(
                f"{self.model}: a worker has a different model than the machine where the command was started"
            )
        return embedder, detector


@lru_cache(maxsize=1)  # a worker computes many parts
def _load(model: str, device: Device, min_size: float | None) -> tuple[Embedder, Detector]:
    embedder = Embedder.load(model, device=device)
    options = {} if min_size is None else {"min_size": min_size}
    return embedder, create_detector(embedder.detector, **options)
