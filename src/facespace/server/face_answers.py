"""What the operations on faces answer, as the API's description says it.

Routes build these answers as plain dicts, since to check each against its model would take as long as to find a small face. A test
compares the two.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Number = float


class Answer(BaseModel):
    """What all answers have in common: no field that is not described."""

    model_config = ConfigDict(extra="forbid")


class ImageSize(Answer):
    """The size of a photo in pixels, upright, and by how many degrees clockwise it was turned to be so."""

    width: int
    height: int
    turned: Literal[0, 90, 180, 270]


class FoundFace(Answer):
    """One face, in pixels of the upright photo."""

    box: list[Number] = Field(description="x1, y1, x2, y2; may reach beyond the photo.", min_length=4, max_length=4)
    score: float = Field(description="The detector's probability.")
    quality: float | None = Field(description="How well it can be recognised, from 0 to 1.")
    landmarks: list[list[Number]] | None = Field(
        None, description="Left eye, right eye, nose, left and right corner of the mouth, as seen; where asked for."
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
    model: str = Field(description="What made the embeddings; those of different models cannot be compared.")
    faces: list[EmbeddedFace]


class PersonOfFace(Answer):
    """Who it is."""

    id: str
    name: str
    external_id: str = Field(description="What another system calls the person; empty where it says nothing.")


class Unknown(Answer):
    """Why a face has no name."""

    reason: Literal["stranger", "too_small", "too_blurred", "nobody_enrolled", "ignored", "somebody_else_here"] = Field(
        description="`stranger`: no one is similar enough. `too_small`, `too_blurred`: it cannot be told who it is. "
        "`nobody_enrolled`: the collection is empty. `ignored`: somebody said to ignore this face. `somebody_else_here`: "
        "another face of the photo is the same person, surer."
    )


class NamedFace(FoundFace):
    """One face, and who it is."""

    embedding: list[float] | None = Field(None, description="Where it was asked for.")
    name: str | None = Field(description="null for unknown.")
    person: PersonOfFace | None
    similarity: float | None = Field(description="The cosine to the nearest person; null where nobody is enrolled.")
    threshold: float = Field(description="The similarity that a name needs, for a face of this quality.")
    unknown: Unknown | None
    unknown_id: str | None = Field(None, description="Where the face is kept, its id in /v1/unknowns.")


class Identified(Answer):
    """Who is in a photo."""

    image: ImageSize
    collection: str
    model: str
    n_people: int
    strangers_named: float = Field(description="The share of strangers that are expected to be given a name.")
    faces: list[NamedFace]


class PhotoProblem(Answer):
    """Why one of several photos has no result."""

    code: str
    detail: str


class IdentifiedPhoto(Answer):
    """Who is in one of several photos; `error` in place of the faces where it cannot be read."""

    index: int
    filename: str
    error: PhotoProblem | None = None
    image: ImageSize | None = None
    faces: list[NamedFace] | None = None


class IdentifiedBatch(Answer):
    """Who is in each of several photos."""

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
    """Whether two faces are of one person."""

    same: bool
    similarity: float
    threshold: float
    false_match_rate: float = Field(
        description="The share of pairs of different people that reach this threshold; of one person of the gallery: the share of "
        "strangers."
    )
    faces: list[ComparedFace] = Field(description="The largest face of each photo.")
    person: PersonOfFace | None = Field(
        None, description="Whom the photo was compared with, if it was a person; null where it shows somebody else."
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
    """Which of several photos show the same person as the first."""

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
