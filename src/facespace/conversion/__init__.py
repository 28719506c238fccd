"""Converts models of other programs to model folders, exports models as ONNX, downloads and installs them.

Begin with `converter.convert`. `exporter` writes ONNX with the preprocessing inside; `installer` puts named models into
the user's folder, using `downloader`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.conversion.converter import convert as convert
    from facespace.conversion.exporter import export as export
    from facespace.conversion.installer import add as add, download as download, remove as remove

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "converter": ["convert"],
        "exporter": ["export"],
        "installer": ["add", "download", "remove"],
    },
)
