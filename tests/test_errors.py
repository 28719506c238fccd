"""The exceptions and their tree."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from facespace import errors
from facespace.errors import FacespaceError, GalleryError, ImageError

TREE = {
    "FacespaceError": "Exception",
    "ImageError": "FacespaceError",
    "VideoError": "ImageError",
    "ModelError": "FacespaceError",
    "DatasetError": "FacespaceError",
    "RecipeError": "FacespaceError",
    "TrainingError": "FacespaceError",
    "ClassifierError": "FacespaceError",
    "RuntimeUnavailable": "FacespaceError",
    "GalleryError": "FacespaceError",
    "UnknownPerson": "GalleryError",
    "ServiceError": "FacespaceError",
}


def test_the_exception_tree_equals_the_drawing():
    classes = dict(inspect.getmembers(errors, inspect.isclass))
    assert {name: cls.__base__.__name__ for name, cls in classes.items()} == TREE
    for name in TREE:
        assert name in errors.__doc__


def test_an_image_error_names_file_and_reason():
    error = ImageError("party.jpg", "the file is empty")
    assert (error.source, error.reason, str(error)) == (
        "party.jpg",
        "the file is empty",
        "party.jpg: the file is empty",
    )


@pytest.mark.parametrize("name", TREE)
def test_errors_travel_between_processes(name):
    arguments = ("a.jpg", "broken") if name in ("ImageError", "VideoError") else ("what happened",)
    error = getattr(errors, name)(*arguments)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_a_pickled_service_error_keeps_its_attributes():
    error = errors.ServiceError("refused", status=404, code="no_such_person", request_id="abc")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.status, again.code, again.request_id) == ("refused", 404, "no_such_person", "abc")


def test_one_name_catches_all():
    for name in TREE:
        assert issubclass(getattr(errors, name), FacespaceError)
    assert not issubclass(errors.ModelError, GalleryError)
