"""The exceptions facespace raises for what a caller can cause or repair.

    FacespaceError               catch this one to catch them all
    ├── ImageError               a file or buffer is no readable image (names it, says why)
    │   └── VideoError           a video or camera cannot be read, or not to its end
    ├── ModelError               a model is unknown, damaged, or not what its description says
    ├── DatasetError             a dataset, list of pairs or table of crops is damaged, or does not fit what is asked
    ├── RecipeError              a recipe of training is not understood, or does not fit what it is used with
    ├── TrainingError            training cannot go on: numbers, memory, disk or data; says what to do
    ├── ClassifierError          a classifier's file is damaged, or belongs to another model
    ├── RuntimeUnavailable       a device or runtime was asked for by name and is not here
    ├── GalleryError             a gallery file is damaged, or belongs to another model
    │   └── UnknownPerson        a name that is not in the gallery
    └── ServiceError             a facespace service refused a request, failed, or cannot be reached

A wrong type or a value out of range is Python's own `TypeError` or `ValueError`.
"""

from __future__ import annotations


class FacespaceError(Exception):
    """Base of every error of this package; its text is one line a user can act on."""


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
    """A video or camera cannot be read, or not to its end; `source` and `reason` as those of `ImageError`."""


class ModelError(FacespaceError):
    """A model is unknown, damaged, or does not match its description."""


class DatasetError(FacespaceError):
    """A dataset, a list of pairs or a record of crops is damaged, or does not fit what is asked of it."""


class RecipeError(FacespaceError):
    """A recipe has an unknown key or value, or does not fit the run, model or data it is used with."""


class TrainingError(FacespaceError):
    """Training cannot go on; the last checkpoint is intact."""


class ClassifierError(FacespaceError):
    """A classifier's file cannot be read, or not be used with this model."""


class RuntimeUnavailable(FacespaceError):
    """A runtime or device was asked for by name and is not on this machine."""


class GalleryError(FacespaceError):
    """A gallery cannot be opened or used with this model."""


class UnknownPerson(GalleryError):
    """The gallery holds nobody of that name."""


class ServiceError(FacespaceError):
    """A facespace service refused a request, failed, or cannot be reached.

    `status` is the HTTP status, or None where no answer came; `code` the service's stable name of the problem, such as
    `no_such_person`; `request_id` what its log knows the request by. Both are empty where the service did not say them.

    >>> error = ServiceError("http://localhost:8000: nobody has this id", status=404, code="no_such_person")
    >>> error.status, error.code
    (404, 'no_such_person')
    """

    def __init__(self, message: str, *, status: int | None = None, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
