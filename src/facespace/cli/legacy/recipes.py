"""What the old trainers were told in flags, as a recipe; and the recipe as today's command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facespace.training.recipe import Recipe

_BASES = ("facenet-casia-2017", "facenet-vggface2-2018", "facenet-triplet", "arcface-ms1mv2")
_LOSSES = "\n\n[[losses]]\n"


def as_recipe(values: dict[str, Any], program: str) -> Recipe:
    """The recipe of these keys, checked as any other; `RecipeError` calls it by the program's name."""
    from facespace.training.recipe import parse, toml_value

    flat = [f"{key} = {toml_value(value)}" for key, value in values.items() if key != "losses"]
    losses = [
        "[[losses]]\n" + "\n".join(f"{k} = {toml_value(v)}" for k, v in term.items()) for term in values["losses"]
    ]
    return parse("\n".join([*flat, *losses]), source=program)


def command_of(recipe: Recipe, run: Path) -> list[str]:
    """The words of `facespace train` that train this recipe: the closest shipped one, and what is put over it."""
    from facespace.training.recipe import load

    mine = _keys(recipe)
    overrides: list[list[str]] = []
    for base in _BASES:
        theirs = _keys(load(base))
        overrides.append([f"{key}={value}" for key, value in mine.items() if theirs.get(key) != value])
    fewest = min(range(len(_BASES)), key=lambda k: len(overrides[k]))
    return ["facespace", "train", _BASES[fewest], *overrides[fewest], "--output", str(run)]


def _keys(recipe: Recipe) -> dict[str, str]:
    """Every key of a recipe with its value as TOML writes it; the losses as one value."""
    from facespace.training.recipe import as_toml

    flat, *losses = as_toml(recipe).rstrip("\n").split(_LOSSES)
    keys = dict(line.split(" = ", 1) for line in flat.splitlines())
    keys["losses"] = "[" + ", ".join("{ " + ", ".join(block.splitlines()) + " }" for block in losses) + "]"
    return keys
