"""Training recipes: TOML files of flat keys, checked completely before training begins."""

from __future__ import annotations

import difflib
import importlib.resources
import math
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from facespace.errors import DatasetError, RecipeError
from facespace.io.files import read_whole
from facespace.io.text import plain_text
from facespace.runtime.devices import Device

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_BYTES = 1_000_000
_MAX_DEPTH = 4  # of nested lists and tables: a recipe, its losses, one loss, an option of it
_SHIPPED = "recipes"


class Term(BaseModel):
    """Represents one term of the total loss: a loss of `losses/` by name, its weight, and its options."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    name: str
    weight: float = Field(1.0, ge=0)

    @property
    def options(self) -> dict[str, Any]:
        """The options for `losses.create`."""
        return dict(self.model_extra or {})


class Recipe(BaseModel):
    """Represents everything that a training run depends on. The comments in `recipes/` explain the keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    # Data
    data: str | list[str] = ""
    min_images_per_person: int = Field(1, ge=1)
    # Network and losses
    backbone: str = "inception-resnet-v1"
    dimension: int = Field(512, ge=1, le=4096)
    keep_probability: float = Field(1.0, gt=0, le=1)
    input_spec: str | dict[str, Any] = "facenet-2018"
    init: str = ""
    freeze: list[str] = []
    backbone_learning_rate: float = Field(1.0, gt=0)
    losses: list[Term] = [Term(name="softmax", weight=1.0)]
    # Augmentation
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
    # Optimisation
    optimizer: str = "adam"
    learning_rate: float = Field(0.05, gt=0)
    schedule: str = "step"
    decay_epochs: int = Field(100, ge=1)
    decay_factor: float = Field(1.0, gt=0, le=1)
    warmup_epochs: float = Field(0.0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(0.0, ge=0)
    ema: float = Field(0.0, ge=0, lt=1)
    # Device and precision
    device: Device = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    # Verification, checkpoints and logs
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

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if not self.losses:
            raise ValueError("losses must have at least one term")
        if bool(self.verify_lfw) != bool(self.verify_pairs):
            raise ValueError("verify_lfw (a folder of photos) and verify_pairs (its pairs.txt) must be given together")
        if self.images_per_person and self.batch_size % self.images_per_person:
            raise ValueError(
                f"batch_size must be a multiple of images_per_person ({self.images_per_person}), got {self.batch_size}"
            )
        return self

    def differences(self, other: Recipe) -> list[str]:
        """Return the keys in which two recipes differ, each with both values."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [f"{key} {theirs[key]!r} instead of {mine[key]!r}" for key in mine if mine[key] != theirs[key]]


def shipped() -> tuple[str, ...]:
    """Return the names of the recipes that come with the package."""
    folder = importlib.resources.files("facespace.training").joinpath(_SHIPPED)
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load(source: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe by name or from a file, and apply `key=value` overrides.

    A value is written as in TOML, but quotes may be left out. `TERM.option=value` sets an option of the loss `TERM`;
    `data=A data=B` trains on both datasets. Raises `RecipeError` for an unknown key (the message has the closest known
    key), and for values that are not allowed or do not fit together.
    """
    name, text = os.fspath(source), ""
    if name in shipped():
        text = (
            importlib.resources.files("facespace.training")
            .joinpath(_SHIPPED)
            .joinpath(f"{name}.toml")
            .read_text(encoding="utf-8")
        )
    elif os.path.isfile(name):
        try:
            # Paths may contain bytes that are not UTF-8; they are kept as surrogates, as everywhere.
            text = read_whole(name, _MAX_BYTES).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        except DatasetError as error:
            raise RecipeError(str(error)) from None
    else:
        raise RecipeError(
            f"{plain_text(name)}: neither a recipe file nor a recipe's name ({', '.join(shipped())}), nor a run's folder"
        )
    return parse(text, overrides, source=plain_text(name))


def parse(text: str, overrides: Sequence[str] = (), *, source: str = "recipe") -> Recipe:
    """Parse the TOML text of a recipe; see `load`.

    >>> parse('batch_size = 8', ["learning_rate=1", "optimizer=sgd"]).learning_rate
    1.0
    """
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for a number of too many digits
        raise RecipeError(f"{source}: not TOML ({plain_text(str(error).splitlines()[0])[:200]})") from None
    paths: list[Any] = []
    for override in overrides:
        _apply_override(values, override)
        if override.partition("=")[0].strip() == "data":
            named = values["data"] if isinstance(values["data"], list) else [values["data"]]
            paths = [*paths, *named] if values["data"] else []  # an empty `data=` drops the paths before it
    if len(paths) > 1:
        values["data"] = paths
    return from_values(values, source=source)


def from_values(values: dict[str, Any], *, source: str = "recipe") -> Recipe:
    """Return the recipe with these keys and values; raise `RecipeError` as `load` does.

    >>> from_values({"batch_size": 8}).batch_size
    8
    """
    try:
        _check(values)
        return Recipe.model_validate(values)
    except ValueError as error:
        problem = _first_error(error, values) if isinstance(error, ValidationError) else str(error)
        raise RecipeError(f"{source}: {problem}") from None


def _check(value: Any, where: str = "", depth: int = 0) -> None:
    """Raise `ValueError` for values that TOML allows but `as_toml` cannot write, such as dates and infinity."""
    if isinstance(value, (dict, list)) and depth < _MAX_DEPTH:
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            _check(entry, f"{where}.{plain_text(str(key))[:60]}" if where else plain_text(str(key))[:60], depth + 1)
    elif isinstance(value, int):  # bool, too
        if abs(value) >= 2**63:
            raise ValueError(f"{where}: a whole number must have at most 64 bits, got {value.bit_length():,}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: must be a finite number, got {value}")
    elif not isinstance(value, str):
        raise ValueError(
            f"{where}: must be a text, a number, true or false, or a list or table of these, got {type(value).__name__}"
        )


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, written = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"{plain_text(override)!r}: expected key=value, such as learning_rate=0.05")
    written = written.strip()
    try:
        parsed = tomllib.loads(f"value = {written}")
        value: Any = parsed["value"] if len(parsed) == 1 else written
    except (ValueError, RecursionError):
        value = written
    annotation = Recipe.model_fields[key].annotation if key in Recipe.model_fields else None
    if annotation == list[str]:
        if not isinstance(value, list):
            value = [value if isinstance(value, str) else written] if value != "" else []
    elif annotation is str or (str in get_args(annotation) and not isinstance(value, (list, dict))):
        value = value if isinstance(value, str) else written  # a folder's name may look like a number: 2018
    term, dot, option = key.partition(".")
    if not dot:
        values[key] = value
        return
    losses = values.setdefault("losses", [entry.model_dump() for entry in Recipe.model_fields["losses"].default])
    terms = [entry for entry in losses if isinstance(entry, dict)] if isinstance(losses, list) else []
    found = [entry for entry in terms if entry.get("name") == term]
    if not found:
        names = [plain_text(str(entry.get("name")))[:60] for entry in terms]
        raise RecipeError(f"{plain_text(override)!r}: the recipe has no loss {term!r}{_closest(term, names)}")
    for entry in found:
        entry[option] = value


def _first_error(error: ValidationError, values: dict[str, Any]) -> str:
    """Return one of pydantic's errors in one line: the first unknown key if there is one, else the first error."""
    findings = sorted(error.errors(include_url=False), key=lambda finding: finding["type"] != "extra_forbidden")
    finding = findings[0]
    if finding["type"] == "extra_forbidden":
        name = str(finding["loc"][0])
        return f"unknown key {plain_text(name)[:60]!r}{_closest(name, Recipe.model_fields)}"
    message = finding["msg"].removeprefix("Value error, ")
    where: list[str] = []
    given: Any = values
    for part in finding["loc"]:  # without the parts by which pydantic names the types of a union
        missing = finding["type"] == "missing" and part == finding["loc"][-1]
        if missing or isinstance(part, int) or (isinstance(given, dict) and part in given):
            where.append(plain_text(str(part))[:60])
            given = given if missing else given[part]
    if not where:
        return message
    return f"{'.'.join(where)}: {message[:1].lower()}{message[1:]}; got {plain_text(repr(given))[:80]}"


def _closest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f", the closest is {close[0]}" if close else f"; there are {', '.join(names)}"


def as_toml(recipe: Recipe) -> str:
    """Return the recipe as a TOML text with every key. `parse` reads it as the same recipe."""
    text = tomli_w.dumps(recipe.model_dump(exclude_none=True))
    return "".join(letter if letter == "\n" else _letter(letter) for letter in text)


def _letter(letter: str) -> str:
    """Return a letter of a TOML string, escaped if a terminal would not print it; tomli-w escapes ASCII only."""
    if letter.isprintable() or "\udc80" <= letter <= "\udcff":  # surrogates: bytes of a path that are not UTF-8
        return letter
    return f"\\u{ord(letter):04x}" if ord(letter) < 2**16 else f"\\U{ord(letter):08x}"
