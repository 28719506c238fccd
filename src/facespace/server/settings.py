"""The settings that an operator gives a service. They are passed to its workers in an environment variable."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import Any

from facespace.defaults import DEFAULT_MODEL

SETTINGS_VARIABLE = "FACESPACE_SERVE_SETTINGS"  # passes the settings to worker processes
LOOPBACK = ("127.0.0.1", "::1", "localhost")

MAX_BODY = 32 * 2**20  # bytes of one request
MAX_PHOTOS = 100  # photos of one request
MAX_SERVED_PIXELS = 50_000_000  # pixels of one photo
MAX_RETURNED_FACES = 1000  # faces of one photo
MAX_QUEUE = 64  # photos that wait for the networks
MAX_CONNECTIONS = 1000  # open connections


@dataclass(frozen=True)
class Settings:
    """The settings of a service.

    `gallery` is the path or address of the gallery, `state` the folder of the service's own file. `forwarded_from` are the
    addresses of proxies whose X-Forwarded headers are trusted, `hosts` further host names of the service. `unknowns_days`
    is the number of days for which unknown faces are kept; None or 0 keeps none. `rate_per_second` and `burst` limit each
    key; None sets no limit. `warm` runs the networks once before the first request. Limits are in bytes, pixels, seconds
    or numbers, as their names say.

    >>> Settings.from_json(Settings("people.gallery", port=9000).as_json()).port
    9000
    """

    gallery: str
    state: str = ""
    model: str = DEFAULT_MODEL
    host: str = "127.0.0.1"
    port: int = 8000
    page: bool = True
    workers: int = 1
    root_path: str = ""
    hosts: tuple[str, ...] = ()
    forwarded_from: tuple[str, ...] = ()
    min_size: float = 20.0
    keep_crops: bool = True
    unknowns_days: float | None = None
    rate_per_second: float | None = None
    burst: int = 100
    max_body: int = MAX_BODY
    max_photos: int = MAX_PHOTOS
    max_pixels: int = MAX_SERVED_PIXELS
    max_faces: int = MAX_RETURNED_FACES
    queue: int = MAX_QUEUE
    max_connections: int = MAX_CONNECTIONS
    request_seconds: float = 60.0
    header_seconds: float = 10.0
    allow_private_webhooks: bool = False
    mqtt: str = ""
    log_level: str = "info"
    warm: bool = True

    def __post_init__(self) -> None:
        if not self.state:
            object.__setattr__(self, "state", default_state(self.gallery))
        for name in (
            "max_body",
            "max_photos",
            "max_pixels",
            "max_faces",
            "queue",
            "max_connections",
            "workers",
            "burst",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("request_seconds", "header_seconds"):
            if not 0 < getattr(self, name) < 86_400:
                raise ValueError(f"{name} must be above 0 and below 86,400 seconds, got {getattr(self, name)}")
        if self.rate_per_second is not None and not self.rate_per_second > 0:
            raise ValueError(f"rate_per_second must be above 0, got {self.rate_per_second}")
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise ValueError(f"root_path must begin with / and not end with it, got {self.root_path!r}")

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach the service."""
        return self.host in LOOPBACK or self.host.startswith("127.")

    def as_json(self) -> str:
        """Return the settings as text, for `from_json`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Return the settings that `as_json` wrote."""
        held = json.loads(text)
        given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in held.items()}
        return cls(**given)

    @classmethod
    def from_environment(cls) -> Settings:
        """Return the settings that the parent process put into the environment."""
        return cls.from_json(os.environ[SETTINGS_VARIABLE])


def default_state(gallery: str) -> str:
    """Return the default folder for the service's own file.

    It lies next to the gallery's file. If the gallery is on a server, it lies in the current folder.

    >>> default_state("people.gallery"), default_state("postgresql://localhost/faces")
    ('people.gallery.service', 'facespace.service')
    """
    return "facespace.service" if "://" in gallery else f"{gallery}.service"
