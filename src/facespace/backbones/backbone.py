"""What every network of this package is: images in, features out, and how to build the same one again."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

MAX_DIMENSION = 4096  # numbers in one feature vector; a damaged file must not ask for more memory than this takes


class Backbone(nn.Module):
    """A network from images to features, built by `create`.

    Called with images (N,3,H,W) float32, preprocessed as its weights want them, it returns features (N,D), raw: not
    normalised to length 1. `create(network.name, **network.options)` builds the same network with new weights; the
    options are what JSON can hold.

    A subclass states its options as keyword arguments, hands all of them to this constructor, and computes in
    `compute`. It sets `input_size` where it takes one size only, `minimum_size` where it takes any size from that up.
    The last vector in its state dict has `dimension` numbers, so that weights alone tell it.
    """

    name: str = ""  # given by `register`
    input_size: int | None = None  # side in pixels
    minimum_size: int = 1  # least height and width; `input_size` where that is set
    options: dict[str, Any]

    def __init__(self, *, dimension: int, **options: Any) -> None:
        super().__init__()
        if isinstance(dimension, bool) or not isinstance(dimension, int):
            raise TypeError(f"dimension wants a whole number; got {dimension!r:.60}")
        if not 1 <= dimension <= MAX_DIMENSION:
            raise ValueError(f"dimension wants 1 to {MAX_DIMENSION}; got {dimension}")
        kept = options.get("keep_probability", 1.0)
        if isinstance(kept, bool) or not isinstance(kept, (int, float)):
            raise TypeError(f"keep_probability wants a number; got {kept!r:.60}")
        if not 0 < kept <= 1:
            raise ValueError(f"keep_probability wants more than 0, at most 1; got {kept}")
        scaled = options.get("batch_norm_scale", False)
        if not isinstance(scaled, bool):
            raise TypeError(f"batch_norm_scale wants True or False; got {scaled!r:.60}")
        self.dimension = dimension
        self.options = {"dimension": self.dimension, **options}

    def forward(self, images: Tensor) -> Tensor:
        """Features (N,D) of images (N,3,H,W); `ValueError` for images this network does not take."""
        self._check(images)
        return self.compute(images)

    def compute(self, images: Tensor) -> Tensor:
        """`forward` for images whose shape has been checked."""
        raise NotImplementedError

    def _check(self, images: Tensor) -> None:
        fits = images.ndim == 4 and images.shape[1] == 3 and images.is_floating_point()
        if fits and self.input_size is not None:
            fits = images.shape[2] == images.shape[3] == self.input_size
        elif fits:
            fits = images.shape[2] >= self.minimum_size and images.shape[3] >= self.minimum_size
        if not fits:
            least, side = self.minimum_size, self.input_size
            wanted = f"(N,3,H,W), H and W at least {least}" if side is None else f"(N,3,{side},{side})"
            came = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
            raise ValueError(f"{self.name} takes float images {wanted}; got {came}")
