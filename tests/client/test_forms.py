"""The digest of a form."""

from __future__ import annotations

from itertools import combinations

from facespace.client.forms import Form
from facespace.client.pictures import Picture


def test_forms_that_differ_anywhere_have_other_digests() -> None:
    def photo(data: bytes = b"1", filename: str = "a.jpg", media_type: str = "image/jpeg") -> Picture:
        return Picture(data, filename, media_type)

    forms = [
        Form([("name", "Ada")], [("photo", photo())]),
        Form([("name", "Ad")], [("photo", photo(b"a1"))]),
        Form([("nameA", "da")], [("photo", photo())]),
        Form([("name", "Ada")], [("photo", photo(filename="b.jpg"))]),
        Form([("name", "Ada")], [("photo", photo(media_type="image/png"))]),
        Form([("name", "Ada")], [("other", photo())]),
        Form([("name", "Ada")], [("photo", photo()), ("photo", photo())]),
        Form([("name", "Ada"), ("name", "Ada")], [("photo", photo())]),
        Form([], [("photo", photo())]),
    ]
    for one, other in combinations(forms, 2):
        assert one.digest() != other.digest()
    assert forms[0].digest() == Form((("name", "Ada"),), (("photo", photo()),)).digest()
