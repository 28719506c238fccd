"""What a gallery's file holds of names, photos and vectors: as they are, or encrypted with a key.

Encrypted is with AES-256-GCM and a nonce of its own for every value (NIST SP 800-38D). What must be found again, such as a
name, stands beside it as an HMAC-SHA-256, which tells nothing but that two are equal. Both keys are derived by scrypt (RFC
7914) from what the variable `FACESPACE_GALLERY_KEY` holds, with a salt of the file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from typing import Any, Protocol

from facespace.errors import GalleryError

VARIABLE = "FACESPACE_GALLERY_KEY"
_SHORTEST = 16  # characters of a key
_SALT = 16  # bytes
_NONCE = 12
_CHECK = b"facespace gallery"
_SCRYPT = {"n": 2**15, "r": 8, "p": 1, "maxmem": 2**26}


class Sealing(Protocol):
    """How values are written and read. `open_…` raise `ValueError` for what was not written by the same."""

    encrypted: bool

    def seal(self, data: bytes) -> bytes:
        """What is written for some bytes."""

    def open(self, data: bytes) -> bytes:
        """The bytes that `seal` was given."""

    def seal_text(self, text: str) -> str:
        """What is written for a text."""

    def open_text(self, text: str) -> str:
        """The text that `seal_text` was given."""

    def key_of(self, data: bytes) -> bytes:
        """What equal bytes are found by; 32 bytes where they are encrypted."""

    def key_of_text(self, text: str) -> str:
        """What equal texts are found by."""


class Plain:
    """Everything as it is."""

    encrypted = False

    def seal(self, data: bytes) -> bytes:
        """The bytes as they are."""
        return data

    open = seal

    def seal_text(self, text: str) -> str:
        """The text as it is."""
        return text

    open_text = seal_text

    def key_of(self, data: bytes) -> bytes:
        """The bytes as they are."""
        return data

    def key_of_text(self, text: str) -> str:
        """The text as it is."""
        return text


class Encrypted:
    """Everything encrypted with the two keys that `key` and `salt` give.

    >>> sealing = Encrypted("correct horse battery", bytes(16))
    >>> sealing.open(sealing.seal(b"face")), sealing.seal(b"face") == sealing.seal(b"face")
    (b'face', False)
    """

    encrypted = True

    def __init__(self, key: str, salt: bytes) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise GalleryError(
                f"{VARIABLE} is set, but the package cryptography is not installed; pip install 'facespace[encryption]'"
            ) from None
        if len(key) < _SHORTEST:
            raise GalleryError(f"{VARIABLE} must have at least {_SHORTEST} characters, got {len(key)}")
        both = hashlib.scrypt(key.encode(), salt=salt, dklen=64, **_SCRYPT)
        self._cipher: Any = AESGCM(both[:32])
        self._key = both[32:]
        self._invalid = InvalidTag

    def seal(self, data: bytes) -> bytes:
        """A nonce of 12 bytes, what is encrypted, and a tag of 16 bytes."""
        nonce = secrets.token_bytes(_NONCE)
        sealed: bytes = nonce + self._cipher.encrypt(nonce, data, None)
        return sealed

    def open(self, data: bytes) -> bytes:
        """The bytes that were encrypted; `ValueError` where these are others, or of another key."""
        try:
            opened: bytes = self._cipher.decrypt(data[:_NONCE], data[_NONCE:], None)
        except (self._invalid, ValueError):
            raise ValueError("an encrypted value was changed, or is of another key") from None
        return opened

    def seal_text(self, text: str) -> str:
        """The same in base64."""
        return base64.b64encode(self.seal(text.encode("utf-8", "surrogatepass"))).decode()

    def open_text(self, text: str) -> str:
        """The text that was encrypted; `ValueError` as in `open`."""
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("an encrypted value is no base64") from None
        return self.open(data).decode("utf-8", "surrogatepass")

    def key_of(self, data: bytes) -> bytes:
        """The HMAC-SHA-256 of the bytes."""
        return hmac.digest(self._key, data, "sha256")

    def key_of_text(self, text: str) -> str:
        """The HMAC-SHA-256 of the text, in hexadecimal."""
        return self.key_of(text.encode("utf-8", "surrogatepass")).hex()


def new_sealing() -> tuple[Sealing, dict[str, str] | None]:
    """How a new gallery is written, and what of it stands in the file: encrypted where the variable holds a key."""
    key = os.environ.get(VARIABLE, "")
    if not key:
        return Plain(), None
    salt = secrets.token_bytes(_SALT)
    sealing = Encrypted(key, salt)
    return sealing, {"salt": salt.hex(), "check": sealing.seal(_CHECK).hex()}


def sealing_of(told: Any, name: str) -> Sealing:
    """How a gallery is read whose file tells this; `GalleryError` where the key is missing or another one."""
    if told is None:
        return Plain()
    key = os.environ.get(VARIABLE, "")
    if not key:
        raise GalleryError(f"{name}: encrypted; set the variable {VARIABLE} to its key")
    try:
        salt, check = bytes.fromhex(told["salt"]), bytes.fromhex(told["check"])
    except (KeyError, TypeError, ValueError):
        raise GalleryError(f"{name}: damaged (what it tells of its encryption is none)") from None
    sealing = Encrypted(key, salt)
    try:
        same = sealing.open(check) == _CHECK
    except ValueError:
        same = False
    if not same:
        raise GalleryError(f"{name}: encrypted with another key than {VARIABLE} holds")
    return sealing
