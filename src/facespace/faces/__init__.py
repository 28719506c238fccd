"""One detected face, and the crop of it that a network takes.

Begin with `face.Face`. `input_spec.InputSpec` describes what a network was trained to see, and `alignment.align` makes
that crop. `crops` handles folders of stored crops and their record, `align.json`; `quality` rates faces; `drawing`
draws faces on photos, and `lettering` their names with `fonts`; `portraits` cuts faces out for viewing. To add a way of
cropping, write it in `alignment` and add its name to `InputSpec.template`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from facespace._lazy import attach

if TYPE_CHECKING:
    from facespace.faces.alignment import align as align
    from facespace.faces.crops import CropRecord as CropRecord
    from facespace.faces.drawing import annotate as annotate
    from facespace.faces.face import Face as Face, central_face as central_face
    from facespace.faces.input_spec import INPUT_SPECS as INPUT_SPECS, InputSpec as InputSpec

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "alignment": ["align"],
        "crops": ["CropRecord"],
        "drawing": ["annotate"],
        "face": ["Face", "central_face"],
        "input_spec": ["INPUT_SPECS", "InputSpec"],
    },
)
