"""facespace models: which weights there are, and what may be done with them."""

from __future__ import annotations

from facespace.cli.options import Json
from facespace.cli.output import write_json, write_line


def models(json: Json = False) -> None:
    """List the named models with origin, licence and training data."""
    from facespace.errors import ModelError
    from facespace.pretrained import DEFAULT_MODEL, MODELS, RESEARCH_NOTE, locate

    for card in MODELS.values():
        try:
            place = str(locate(card))
        except ModelError as error:
            place = f"missing: {error}"
        if json:
            write_json(
                {
                    "name": card.name,
                    "default": card.name == DEFAULT_MODEL,
                    "network": card.network,
                    "dimension": card.dimension,
                    "input_spec": card.spec.as_dict(),
                    "licence": card.licence,
                    "origin": card.origin,
                    "training_data": card.training_data,
                    "sha256": card.sha256,
                    "file": place,
                    "note": RESEARCH_NOTE,
                }
            )
            continue
        write_line(f"{card.name}{' (default)' if card.name == DEFAULT_MODEL else ''}")
        spec = card.spec
        for label, text in (
            ("network", f"{card.network}, {card.dimension} numbers a face"),
            ("input", f"{spec.size} px, {spec.template} crop, margin {spec.crop_margin} px, {spec.standardization}"),
            ("trained on", card.training_data),
            ("accuracy", card.accuracy),
            ("licence", card.licence),
            ("origin", card.origin),
            ("sha256", card.sha256),
            ("file", place),
        ):
            write_line(f"  {label:<11}{text}")
    if not json:
        write_line(f"\n{RESEARCH_NOTE}")
