"""Safe reading and writing: images, PNG files, atomic writes, checksums.

Begin with `image`, the only reader of photos; `file_kinds`, which decides what a photo is; and `files`, which writes every
file. `protobuf` and `tensor_file` read untrusted bytes. A new kind of file that several packages read gets a module here.
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
