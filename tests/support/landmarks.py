"""The five landmarks of an invented face, as a detector returns them."""

from __future__ import annotations

LANDMARKS = ((20.0, 40.0), (40.0, 40.0), (30.0, 50.0), (22.0, 60.0), (38.0, 60.0))
