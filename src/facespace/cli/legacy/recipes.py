"""Recipes made from the flags of the old trainers, and the equivalent `facespace train` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facespace.training.recipe import Recipe

_BASES = ("facenet-casia-2017", "facenet-vggface2-2018", "facenet-triplet", "arcface-ms1mv2")


def as_recipe(values: dict[str, Any], program: str) -> Recipe:
    """Return a validated recipe from its `values`. Raises `RecipeError` with a message that starts with `program`."""
    from facespace.training.recipe import from_values

    return from_values(values, source=program)


def command_of(recipe: Recipe, run: Path) -> list[str]:
    """Return the words of the `facespace train` command for a recipe.

    The command names the shipped recipe that differs in the fewest keys, and sets those keys.
    """
    from facespace.training.recipe import load

    mine = _keys(recipe)
    overrides: list[list[str]] = []
    for base in _BASES:
        theirs = _keys(load(base))
        overrides.append([f"{key}={value}" for key, value in mine.items() if theirs.get(key) != value])
    fewest = min(range(len(_BASES)), key=lambda k: len(overrides[k]))
    return ["facespace", "train", _BASES[fewest], *overrides[fewest], "--output", str(run)]


def _keys(recipe: Recipe) -> dict[str, str]:
    """Return every key of a recipe with its value in TOML."""
    return {key: _in_one_line(value) for key, value in recipe.model_dump(exclude_none=True).items()}


def _in_one_line(value: Any) -> str:
    """Write a value as TOML on a single line.

    >>> _in_one_line([{"name": "center", "rate": 0.5}])
    '[ { name = "center", rate = 0.5 }, ]'
    """
    import tomli_w

    # Within a nested array, tomli-w writes tables inline, and every entry of the array on its own line.
    lines = tomli_w.dumps({"value": [[value]]}).split("\n")
    return " ".join(line.strip() for line in lines).removeprefix("value = [ [ ").removesuffix(", ], ] ")
