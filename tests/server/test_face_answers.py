"""The examples of the description are answers; test_faces compares real answers with the models."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from facespace.server import face_answers

PAIRS = [
    (face_answers.Detected, face_answers.DETECTED_EXAMPLE),
    (face_answers.Embedded, face_answers.EMBEDDED_EXAMPLE),
    (face_answers.Identified, face_answers.IDENTIFIED_EXAMPLE),
    (face_answers.IdentifiedBatch, face_answers.BATCH_EXAMPLE),
    (face_answers.Verified, face_answers.VERIFIED_EXAMPLE),
]


@pytest.mark.parametrize(("model", "example"), PAIRS, ids=[model.__name__ for model, _ in PAIRS])
def test_examples_fit(model: type[BaseModel], example):
    model.model_validate(example)
    with pytest.raises(ValidationError):
        model.model_validate({**example, "undescribed": 1})
