"""Recipes of training: TOML files of flat keys, checked whole before anything is begun."""

from __future__ import annotations

import difflib
import importlib.resources
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from facespace.datasets.pairs import read_whole
from facespace.errors import RecipeError
from facespace.text import plain_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES = 1_000_000
_SHIPPED = "recipes"


class Term(BaseModel):
    """One term of what is minimised: a loss of `losses/` by name, its weight, and its options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    weight: float = Field(1.0, ge=0, allow_inf_nan=False)

    @property
    def options(self) -> dict[str, Any]:
        """What `losses.create` gets beside the name."""
        return dict(self.model_extra or {})


class Recipe(BaseModel):
    """Everything a training run depends on; the comment in `recipes/` beside each key says what it is for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # What is learned from
    data: str | list[str] = ""
    min_images_per_person: int = Field(1, ge=1)
    # The network
    backbone: str = "inception-resnet-v1"
    dimension: int = Field(512, ge=1, le=4096)
    keep_probability: float = Field(1.0, gt=0, le=1)
    input_spec: str | dict[str, Any] = "facenet-2018"
    init: str = ""
    freeze: list[str] = []
    backbone_learning_rate: float = Field(1.0, gt=0)
    losses: list[Term] = [Term(name="softmax", weight=1.0)]
    # What becomes of a crop
    crop: Literal["center", "random"] = "center"
    crop_size: int | None = Field(None, ge=16, le=4096)
    flip: bool = True
    rotate: float = Field(0.0, ge=0, le=180)
    color: float = Field(0.0, ge=0, le=1)
    low_resolution: float = Field(0.0, ge=0, le=1)
    occlusion: float = Field(0.0, ge=0, le=1)
    mask: float = Field(0.0, ge=0, le=1)
    # Batches
    batch_size: int = Field(90, ge=2)
    images_per_person: int = Field(0, ge=0)
    accumulate: int = Field(1, ge=1)
    n_epochs: int = Field(80, ge=1)
    epoch_size: int = Field(0, ge=0)
    workers: int = Field(2, ge=0, le=256)
    seed: int = Field(666, ge=0, lt=2**31)
    # How weights move
    optimizer: str = "adam"
    learning_rate: float = Field(0.05, gt=0)
    schedule: str = "step"
    decay_epochs: int = Field(100, ge=1)
    decay_factor: float = Field(1.0, gt=0, le=1)
    warmup_epochs: float = Field(0.0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(0.0, ge=0)
    ema: float = Field(0.0, ge=0, lt=1)
    # What computes
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    # What is measured and kept
    verify_bin: list[str] = []
    verify_lfw: str = ""
    verify_pairs: str = ""
    verify_threshold_pairs: str = ""
    verify_aligned: bool = False
    verify_distance: Literal["euclidean", "angle"] = "euclidean"
    verify_flip: Literal["none", "concat", "add"] = "none"
    verify_subtract_mean: bool = False
    verify_every: int = Field(1, ge=1)
    checkpoint_every: int = Field(0, ge=0)
    keep: int = Field(3, ge=1)
    log_every: int = Field(20, ge=1)
    histograms: bool = False

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers_are_numbers(cls, values: Any) -> Any:
        """`lr = 1` means 1.0; pydantic's strict mode would not have it."""
        if isinstance(values, dict):
            floats = {name for name, field in cls.model_fields.items() if field.annotation is float}
            values = {
                key: float(value) if key in floats and type(value) is int else value for key, value in values.items()
            }
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if not self.losses:
            raise ValueError("losses wants at least one term")
        if bool(self.verify_lfw) != bool(self.verify_pairs):
            raise ValueError("verify_lfw (a folder of photos) and verify_pairs (its pairs.txt) want each other")
        if self.images_per_person and self.batch_size % self.images_per_person:
            raise ValueError(
                f"batch_size wants a multiple of images_per_person ({self.images_per_person}); got {self.batch_size}"
            )
        return self

    def differences(self, other: Recipe) -> list[str]:
        """The keys in which two recipes differ, each with both values."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [f"{key} {theirs[key]!r} instead of {mine[key]!r}" for key in mine if mine[key] != theirs[key]]


def shipped() -> tuple[str, ...]:
    """The names of the recipes that come with the package."""
    folder = importlib.resources.files("facespace").joinpath(_SHIPPED)
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or in that file, with `key=value` put over it.

    A value is written as in TOML, quotes may be left out. `TERM.option=value` goes to the loss of that name. Raises
    `RecipeError` for what is unknown, with the closest known name, and for what does not fit together.
    """
    name, text = os.fspath(source), ""
    if name in shipped():
        text = (
            importlib.resources.files("facespace")
            .joinpath(_SHIPPED)
            .joinpath(f"{name}.toml")
            .read_text(encoding="utf-8")
        )
    elif os.path.isfile(name):
        text = read_whole(name, _MAX_BYTES).decode("utf-8", "replace")
    else:
        raise RecipeError(
            f"{plain_text(name)}: neither a recipe file nor a recipe's name ({', '.join(shipped())}), nor a run's folder"
        )
    return parse(text, overrides, source=plain_text(name))


def parse(text: str, overrides: Sequence[str] = (), *, source: str = "recipe") -> Recipe:
    """The recipe in a TOML text; see `load`.

    >>> parse('batch_size = 8', ["learning_rate=1", "optimizer=sgd"]).learning_rate
    1.0
    """
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"{source}: not TOML ({str(error).splitlines()[0]})") from None
    for override in overrides:
        _put(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{source}: {_first(error, values)}") from None


def _put(values: dict[str, Any], override: str) -> None:
    key, equals, written = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"{plain_text(override)!r}: wanted key=value, such as learning_rate=0.05")
    try:
        value = tomllib.loads(f"value = {written}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = written
    wanted = Recipe.model_fields.get(key)
    if wanted is not None and wanted.annotation is str and not isinstance(value, str):
        value = written
    if wanted is not None and wanted.annotation == list[str] and isinstance(value, str):
        value = [value] if value else []
    term, dot, option = key.partition(".")
    if not dot:
        values[key] = value
        return
    losses = values.get("losses")
    terms = [entry for entry in losses if isinstance(entry, dict)] if isinstance(losses, list) else []
    found = [entry for entry in terms if entry.get("name") == term]
    if not found:
        names = [str(entry.get("name")) for entry in terms]
        raise RecipeError(f"{plain_text(override)!r}: no loss of the recipe is called {term!r}{_closest(term, names)}")
    for entry in found:
        entry[option] = value


def _first(error: ValidationError, values: dict[str, Any]) -> str:
    """The first of pydantic's findings, unknown keys before others, in one line."""
    findings = sorted(error.errors(include_url=False), key=lambda finding: finding["type"] != "extra_forbidden")
    finding = findings[0]
    where = ".".join(str(part) for part in finding["loc"])
    if finding["type"] == "extra_forbidden":
        return f"no key is called {plain_text(where)[:60]!r}{_closest(where, Recipe.model_fields)}"
    said = finding["msg"].removeprefix("Value error, ")
    if not where:
        return said
    came = repr(values.get(str(finding["loc"][0])))
    return f"{where}: {said[:1].lower()}{said[1:]}; got {plain_text(came)[:80]}"


def _closest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f", the closest is {close[0]}" if close else f"; there are {', '.join(names)}"


def as_toml(recipe: Recipe) -> str:
    """The recipe as a TOML text with every key, which `parse` reads as the same recipe."""
    lines = []
    for key, value in recipe.model_dump(exclude={"losses"}, exclude_none=True).items():
        lines.append(f"{key} = {_toml(value)}")
    for term in recipe.losses:
        lines += ["", "[[losses]]", *(f"{key} = {_toml(value)}" for key, value in term.model_dump().items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(str(key))} = {_toml(entry)}" for key, entry in value.items()) + " }"
    return repr(value)
