"""Galleries and classifiers of known people; strangers are reported as unknown.

Begin with `gallery.Gallery`. `open_set` computes one template and one threshold for each person. `held_out` and
`threshold_tuning` measure error rates on the user's own photos. `stores` keeps a gallery's vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.identification.classifier import Classifier as Classifier, Prediction as Prediction
    from facespace.identification.gallery import Gallery as Gallery, Person as Person
    from facespace.identification.matching import Match as Match
    from facespace.identification.stores.protocol import Store as Store
    from facespace.identification.stores.sqlite import SQLiteStore as SQLiteStore

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "classifier": ["Classifier", "Prediction"],
        "gallery": ["Gallery", "Person"],
        "matching": ["Match"],
        "stores.protocol": ["Store"],
        "stores.sqlite": ["SQLiteStore"],
    },
)
