"""The answers of the operations on faces, as models for the API's description.

Routes build these answers as plain dicts, because checking each against its model takes as long as finding a small face. A
test compares the dicts with the models.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = float


class Answer(BaseModel):
    """Base of the answers: fields that are not described here are forbidden."""

    model_config = ConfigDict(extra="forbid")


class ImageSize(Answer):
    """The size of a photo in pixels after turning it upright, and the degrees clockwise by which it was turned."""

    width: int
    height: int
    turned: Literal[0, 90, 180, 270]


class FoundFace(Answer):
    """One face, in pixels of the upright photo."""

    box: list[Number] = Field(description="x1, y1, x2, y2; may reach beyond the photo.", min_length=4, max_length=4)
    score: float = Field(description="The detector's probability.")
    quality: float | None = Field(description="How well the face can be recognised, from 0 to 1.")
    landmarks: list[list[Number]] | None = Field(
        None,
        description="If requested: left eye, right eye, nose, left and right corner of the mouth, as seen in the photo.",
    )


class Detected(Answer):
    """The faces of a photo, the largest first."""

    image: ImageSize
    faces: list[FoundFace]


class EmbeddedFace(FoundFace):
    """One face with its embedding."""

    embedding: list[float] = Field(description="A vector of length 1; its cosine with another is the similarity.")


class Embedded(Answer):
    """The faces of a photo with their embeddings, the largest first."""

    image: ImageSize
    model: str = Field(description="The model that made the embeddings; those of different models cannot be compared.")
    faces: list[EmbeddedFace]


class PersonOfFace(Answer):
    """The person a face was recognised as."""

    id: str
    name: str
    external_id: str = Field(description="The person's id in another system; empty if not set.")


class Unknown(Answer):
    """The reason why a face has no name."""

    reason: Literal["stranger", "too_small", "too_blurred", "nobody_enrolled", "ignored", "somebody_else_here"] = Field(
        description="`stranger`: no enrolled person is similar enough. `too_small`, `too_blurred`: the face cannot be "
        "recognised. `nobody_enrolled`: the collection is empty. `ignored`: the face was marked to be ignored. "
        "`somebody_else_here`: another face of the photo matches the same person better."
    )


class NamedFace(FoundFace):
    """One face and the person it was recognised as."""

    embedding: list[float] | None = Field(None, description="If requested.")
    name: str | None = Field(description="null for an unknown face.")
    person: PersonOfFace | None
    similarity: float | None = Field(description="The cosine to the nearest person; null if no person is enrolled.")
    threshold: float = Field(description="The similarity needed for a name, for a face of this quality.")
    unknown: Unknown | None
    unknown_id: str | None = Field(None, description="The face's id in /v1/unknowns, if it is kept there.")


class Identified(Answer):
    """The people in a photo."""

    image: ImageSize
    collection: str
    model: str
    n_people: int
    strangers_named: float = Field(description="The share of strangers that are expected to get a name by mistake.")
    faces: list[NamedFace]


class PhotoProblem(Answer):
    """The reason why one of several photos has no result."""

    code: str
    detail: str


class IdentifiedPhoto(Answer):
    """The people in one of several photos, or `error` if it cannot be read."""

    index: int
    filename: str
    error: PhotoProblem | None = None
    image: ImageSize | None = None
    faces: list[NamedFace] | None = None


class IdentifiedBatch(Answer):
    """The people in each of several photos."""

    collection: str
    model: str
    n_people: int
    strangers_named: float
    photos: list[IdentifiedPhoto]


class ComparedFace(Answer):
    """One of the two faces that were compared."""

    box: list[Number]
    quality: float | None


class Verified(Answer):
    """Whether two faces show the same person."""

    same: bool
    similarity: float
    threshold: float
    false_match_rate: float = Field(
        description="The share of pairs of different people that reach this threshold; for a person of the gallery, the share "
        "of strangers."
    )
    faces: list[ComparedFace] = Field(description="The largest face of each photo.")
    person: PersonOfFace | None = Field(
        None, description="The enrolled person that the photo was compared with, if any; null if `same` is false."
    )


class VerifiedPhoto(Answer):
    """Whether one of several photos shows the same person."""

    index: int
    filename: str
    error: PhotoProblem | None = None
    same: bool | None = None
    similarity: float | None = None
    threshold: float | None = None
    face: ComparedFace | None = None


class VerifiedMany(Answer):
    """Whether each of several photos shows the same person as the first photo."""

    false_match_rate: float
    face: ComparedFace
    photos: list[VerifiedPhoto]


_IMAGE = {"width": 600, "height": 512, "turned": 0}
_FACE = {"box": [182.65, 119.99, 352.71, 332.53], "score": 0.9429, "quality": 0.989}
_NAMED = {
    **_FACE,
    "name": "Grace Hopper",
    "person": {"id": "1", "name": "Grace Hopper", "external_id": ""},
    "similarity": 0.7312,
    "threshold": 0.3541,
    "unknown": None,
}
_UNKNOWN = {
    "box": [20.5, 31.0, 44.0, 62.5], "score": 0.8617, "quality": 0.512, "name": None, "person": None, "similarity": 0.1204,
    "threshold": 0.4025, "unknown": {"reason": "stranger"},
}  # fmt: skip
_WHERE = {"collection": "default", "model": "sface", "n_people": 1000, "strangers_named": 0.01}

DETECTED_EXAMPLE: dict[str, Any] = {"image": _IMAGE, "faces": [_FACE]}
EMBEDDED_EXAMPLE: dict[str, Any] = {
    "image": _IMAGE, "model": "sface", "faces": [{**_FACE, "embedding": [0.0312, -0.1187, 0.0954]}],
}  # fmt: skip
IDENTIFIED_EXAMPLE: dict[str, Any] = {"image": _IMAGE, **_WHERE, "faces": [_NAMED, _UNKNOWN]}
BATCH_EXAMPLE: dict[str, Any] = {
    **_WHERE,
    "photos": [
        {"index": 0, "filename": "party.jpg", "image": _IMAGE, "faces": [_NAMED]},
        {"index": 1, "filename": "notes.txt", "error": {"code": "unreadable_image", "detail": "no image"}},
    ],
}
VERIFIED_EXAMPLE: dict[str, Any] = {
    "same": True, "similarity": 0.7312, "threshold": 0.3205, "false_match_rate": 0.01,
    "faces": [{"box": _FACE["box"], "quality": 0.989}, {"box": [10.0, 12.0, 90.0, 110.0], "quality": 0.871}],
}  # fmt: skip
