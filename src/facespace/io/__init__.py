"""Reading and writing that is safe: images, PNG files, files that appear whole or not at all, checksums.

Begin with `image`, the only reader of photographs, `file_kinds`, which says what counts as one, and `files`, through which everything is written. `protobuf` and
`tensor_file` read bytes that cannot be trusted. A new kind of file that several rooms read gets its module here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.io.checksums import sha256_of as sha256_of
    from facespace.io.file_kinds import IMAGE_ENDINGS as IMAGE_ENDINGS
    from facespace.io.files import atomic_path as atomic_path
    from facespace.io.image import as_rgb as as_rgb, read as read
    from facespace.io.png import encode_png as encode_png

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "checksums": ["sha256_of"],
        "file_kinds": ["IMAGE_ENDINGS"],
        "files": ["atomic_path"],
        "image": ["as_rgb", "read"],
        "png": ["encode_png"],
    },
)
