"""Optional encryption of the names, photos and vectors in a gallery's file.

Values are encrypted with AES-256-GCM and a separate nonce for each (NIST SP 800-38D). Values that must be searchable, such
as names, are also stored as an HMAC-SHA-256, which reveals only whether two are equal. Both keys are derived by scrypt (RFC
7914) from the environment variable `FACESPACE_GALLERY_KEY`, with a salt stored in the file.
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
    """Converts values to and from their stored form. `open` and `open_text` raise `ValueError` if the key is wrong."""

    encrypted: bool

    def seal(self, data: bytes) -> bytes:
        """Return the stored form of bytes."""

    def open(self, data: bytes) -> bytes:
        """Return the bytes that `seal` was given."""

    def seal_text(self, text: str) -> str:
        """Return the stored form of a text."""

    def open_text(self, text: str) -> str:
        """Return the text that `seal_text` was given."""

    def key_of(self, data: bytes) -> bytes:
        """Return the search key of bytes: equal bytes have equal keys. With encryption it is a hash of 32 bytes."""

    def key_of_text(self, text: str) -> str:
        """Return the search key of a text: equal texts have equal keys."""


class Plain:
    """Stores all values unencrypted."""

    encrypted = False

    def seal(self, data: bytes) -> bytes:
        """Return the bytes unchanged."""
        return data

    open = seal

    def seal_text(self, text: str) -> str:
        """Return the text unchanged."""
        return text

    open_text = seal_text

    def key_of(self, data: bytes) -> bytes:
        """Return the bytes unchanged."""
        return data

    def key_of_text(self, text: str) -> str:
        """Return the text unchanged."""
        return text


class Encrypted:
    """Encrypts all values with two keys that are derived from `key` and `salt`.

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
        """Return a nonce of 12 bytes, the encrypted bytes, and a tag of 16 bytes."""
        nonce = secrets.token_bytes(_NONCE)
        sealed: bytes = nonce + self._cipher.encrypt(nonce, data, None)
        return sealed

    def open(self, data: bytes) -> bytes:
        """Return the decrypted bytes; raise `ValueError` if they were altered, or encrypted with another key."""
        try:
            opened: bytes = self._cipher.decrypt(data[:_NONCE], data[_NONCE:], None)
        except (self._invalid, ValueError):
            raise ValueError("an encrypted value was altered, or encrypted with another key") from None
        return opened

    def seal_text(self, text: str) -> str:
        """Return the encrypted text in base64."""
        return base64.b64encode(self.seal(text.encode("utf-8", "surrogatepass"))).decode()

    def open_text(self, text: str) -> str:
        """Return the decrypted text; raise `ValueError` as `open` does."""
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("an encrypted value is not base64") from None
        return self.open(data).decode("utf-8", "surrogatepass")

    def key_of(self, data: bytes) -> bytes:
        """Return the HMAC-SHA-256 of the bytes."""
        return hmac.digest(self._key, data, "sha256")

    def key_of_text(self, text: str) -> str:
        """Return the HMAC-SHA-256 of the text, in hexadecimal."""
        return self.key_of(text.encode("utf-8", "surrogatepass")).hex()


def new_sealing() -> tuple[Sealing, dict[str, str] | None]:
    """Return the sealing of a new gallery and its parameters for the file; it encrypts if FACESPACE_GALLERY_KEY is set."""
    key = os.environ.get(VARIABLE, "")
    if not key:
        return Plain(), None
    salt = secrets.token_bytes(_SALT)
    sealing = Encrypted(key, salt)
    return sealing, {"salt": salt.hex(), "check": sealing.seal(_CHECK).hex()}


def sealing_of(parameters: Any, name: str) -> Sealing:
    """Return the sealing for the parameters in a gallery's file; raise `GalleryError` if the key is missing or wrong."""
    if parameters is None:
        return Plain()
    key = os.environ.get(VARIABLE, "")
    if not key:
        raise GalleryError(f"{name}: encrypted; set the variable {VARIABLE} to its key")
    try:
        salt, check = bytes.fromhex(parameters["salt"]), bytes.fromhex(parameters["check"])
    except (KeyError, TypeError, ValueError):
        raise GalleryError(f"{name}: damaged (its encryption parameters are not valid)") from None
    sealing = Encrypted(key, salt)
    try:
        same = sealing.open(check) == _CHECK
    except ValueError:
        same = False
    if not same:
        raise GalleryError(f"{name}: encrypted with another key than the one in {VARIABLE}; set it to the right key")
    return sealing
