"""Forms with texts and photos, as `multipart/form-data`; the same form is always the same bytes.

A repeated request must be the same to the byte, so that the service knows it again by its `Idempotency-Key`. So the
boundary between the parts is made of the contents, not drawn by chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from facespace.client.pictures import Picture


@dataclass(frozen=True, slots=True)
class Form:
    """Texts (field, value), and photos (field, picture) in their order."""

    texts: Sequence[tuple[str, str]]
    photos: Sequence[tuple[str, Picture]]

    def digest(self) -> str:
        """The SHA-256 of everything in the form, in hex.

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
