"""Forms with texts and photos for `multipart/form-data` requests, which are reproducible to the byte.

The service recognises a repeated request by its `Idempotency-Key` only if the bytes are the same. Therefore the boundary
between the parts is derived from the contents instead of being random.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from facespace.client.pictures import Picture


@dataclass(frozen=True, slots=True)
class Form:
    """The texts (field, value) and photos (field, picture) of a form, in order."""

    texts: Sequence[tuple[str, str]]
    photos: Sequence[tuple[str, Picture]]

    def digest(self) -> str:
        """Return the SHA-256 of the whole form, in hex.

        >>> a = Form([("name", "Ada")], [("photo", Picture(b"1", "a.jpg", "image/jpeg"))])
        >>> b = Form([("name", "Ada")], [("photo", Picture(b"2", "a.jpg", "image/jpeg"))])
        >>> a.digest() == a.digest(), a.digest() == b.digest()
        (True, False)
        """
        total = hashlib.sha256()
        parts = [(name.encode(), b"", b"", text.encode()) for name, text in self.texts]
        parts += [
            (name.encode(), photo.filename.encode(), photo.media_type.encode(), photo.data)
            for name, photo in self.photos
        ]
        for part in parts:
            for piece in part:
                total.update(len(piece).to_bytes(8, "big"))
                total.update(piece)
        return total.hexdigest()
