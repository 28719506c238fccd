"""The base class of all networks: images in, features out, and the options that rebuild the same network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

MAX_DIMENSION = 4096  # numbers in one feature vector; bounds the memory that a damaged file can ask for


class Backbone(nn.Module):
    """A network from images to features, built by `create`.

    It takes images (N,3,H,W) float32, preprocessed as its weights require, and returns raw features (N,D), not
    normalised to length 1. `create(network.name, **network.options)` builds the same network with new weights; the
    options can be written as JSON.

    A subclass declares its options as keyword arguments, passes all of them to this constructor, and computes features
    in `compute`. It sets `input_size` if it takes only one size, or `minimum_size` if it takes that and larger sizes.
    The last vector in its state dict has `dimension` numbers, so that the dimension can be read from the weights.
    """

    name: str = ""  # set by `register`
    input_size: int | None = None  # side in pixels
    minimum_size: int = 1  # smallest height and width; the same as `input_size` if that is set
    options: dict[str, Any]

    def __init__(self, *, dimension: int, **options: Any) -> None:
        super().__init__()
        if isinstance(dimension, bool) or not isinstance(dimension, int):
            raise TypeError(f"dimension must be a whole number, got {dimension!r:.60}")
        if not 1 <= dimension <= MAX_DIMENSION:
            raise ValueError(f"dimension must be 1 to {MAX_DIMENSION}, got {dimension}")
        kept = options.get("keep_probability", 1.0)
        if isinstance(kept, bool) or not isinstance(kept, (int, float)):
            raise TypeError(f"keep_probability must be a number, got {kept!r:.60}")
        if not 0 < kept <= 1:
            raise ValueError(f"keep_probability must be more than 0 and at most 1, got {kept}")
        scaled = options.get("batch_norm_scale", False)
        if not isinstance(scaled, bool):
            raise TypeError(f"batch_norm_scale must be True or False, got {scaled!r:.60}")
        self.dimension = dimension
        self.options = {"dimension": self.dimension, **options}

    def forward(self, images: Tensor) -> Tensor:
        """Return features (N,D) of images (N,3,H,W). Raises `ValueError` for a shape that the network does not take."""
        self._check(images)
        return self.compute(images)

    def compute(self, images: Tensor) -> Tensor:
        """Compute the features of images whose shape has been checked."""
        raise NotImplementedError

    def _check(self, images: Tensor) -> None:
        fits = images.ndim == 4 and images.shape[1] == 3 and images.is_floating_point()
        if fits and self.input_size is not None:
            fits = images.shape[2] == images.shape[3] == self.input_size
        elif fits:
            fits = images.shape[2] >= self.minimum_size and images.shape[3] >= self.minimum_size
        if not fits:
            least, side = self.minimum_size, self.input_size
            expected = f"(N,3,H,W), H and W at least {least}" if side is None else f"(N,3,{side},{side})"
            given = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
            raise ValueError(f"{self.name} takes float images {expected}; got {given}")
