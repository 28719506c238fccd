"""The exceptions that facespace raises for problems a caller can cause or fix.

    FacespaceError               the base class of all the others
    ├── ImageError               a file or buffer is not a readable image; names it and gives the reason
    │   └── VideoError           a video or camera cannot be read, or reading stops before its end
    ├── ModelError               a model is unknown, damaged, or does not match its description
    ├── DatasetError             a dataset, pair list or crop record is damaged, or unsuitable for the request
    ├── RecipeError              a training recipe is invalid, or does not fit the run, model or data
    ├── TrainingError            training cannot continue (numbers, memory, disk or data); says what to do
    ├── ClassifierError          a classifier file is damaged, or belongs to another model
    ├── RuntimeUnavailable       the requested device or runtime is not available on this machine
    ├── GalleryError             a gallery file is damaged, or belongs to another model
    │   └── UnknownPerson        the gallery has no person of this name
    └── ServiceError             a facespace service refused a request, failed, or cannot be reached

A wrong type or a value out of range is Python's own `TypeError` or `ValueError`.
"""

from __future__ import annotations


class FacespaceError(Exception):
    """Base class of all errors of this package; the message is one line that a user can act on."""


class ImageError(FacespaceError):
    """A photo cannot be read.

    `source` names the file (or `<bytes>`, `<array>`, …), `reason` says what is wrong with it.

    >>> str(ImageError("party.jpg", "the file is empty"))
    'party.jpg: the file is empty'
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.source, self.reason)


class VideoError(ImageError):
    """A video or camera cannot be read, or reading stops before its end; has the attributes of `ImageError`."""


class ModelError(FacespaceError):
    """A model is unknown, damaged, or does not match its description."""


class DatasetError(FacespaceError):
    """A dataset, a pair list or a crop record is damaged, or unsuitable for the request."""


class RecipeError(FacespaceError):
    """A recipe has an unknown key or value, or does not fit the run, model or data it is used with."""


class TrainingError(FacespaceError):
    """Training cannot continue; the last checkpoint is intact."""


class ClassifierError(FacespaceError):
    """A classifier file cannot be read, or cannot be used with this model."""


class RuntimeUnavailable(FacespaceError):
    """The requested runtime or device is not available on this machine."""


class GalleryError(FacespaceError):
    """A gallery cannot be opened or used with this model."""


class UnknownPerson(GalleryError):
    """The gallery has no person of this name."""


class ServiceError(FacespaceError):
    """A facespace service refused a request, failed, or cannot be reached.

    `status` is the HTTP status, or None if no answer came; `code` is the service's stable name for the problem, such as
    `no_such_person`; `request_id` identifies the request in the service's log. `code` and `request_id` are empty if the
    service did not send them.

    >>> error = ServiceError("http://localhost:8000: no person has this id", status=404, code="no_such_person")
    >>> error.status, error.code
    (404, 'no_such_person')
    """

    def __init__(self, message: str, *, status: int | None = None, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
