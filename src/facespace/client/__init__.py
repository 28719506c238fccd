"""A client for the HTTP API of a facespace service, with the names of the library.

Begin with `client.Client`. `calls` builds the requests, `transport` sends them and repeats them if that is safe, `fields`
checks every value of an answer, and `answers` defines what the client returns. `uploads` enrolls many photos exactly once, and
records them in a `journal`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.client.client import Client as Client
    from facespace.client.journal import Journal as Journal
    from facespace.client.uploads import upload as upload

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "client": ["Client"],
        "journal": ["Journal"],
        "uploads": ["upload"],
    },
)
