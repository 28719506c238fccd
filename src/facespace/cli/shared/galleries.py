"""Galleries on the command line: given by `--gallery`, as the first argument, or by an environment variable."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from facespace.cli.shared.options import GALLERY_VARIABLE
from facespace.cli.shared.output import say
from facespace.io.text import one_line

if TYPE_CHECKING:
    from facespace.embedding.embedder import Embedder
    from facespace.identification.gallery import Gallery

_MAX_RANGE = 100_000  # photos in one range


def open_gallery(
    address: str, embedder: Embedder | None = None, *, collection: str = "default", create: bool = False
) -> Gallery:
    """Open a gallery, and report its remarks on stderr."""
    from facespace.identification.gallery import Gallery

    gallery = Gallery(address, embedder, collection=collection, create=create)
    for remark in gallery.remarks:
        say(remark)
    return gallery


def model_of_gallery(address: str, *, collection: str = "default", create: bool = False) -> str:
    """Return the name of the model that made the embeddings of a gallery; empty for a gallery without a model.

    With `create`, the name is also empty if the file is missing, and the file stays missing. An empty file, which an
    interrupted process may have left, becomes a gallery.
    """
    if create and not is_address(address) and not os.path.exists(address):
        return ""
    with open_gallery(address, collection=collection, create=create) as gallery:
        return gallery.model_name


def is_address(word: str) -> bool:
    """Return whether a word is the address of a server rather than a path."""
    return "://" in word


class GalleryCommand(TyperCommand):
    """A command that also accepts the gallery as its first argument: `gallery list people.gallery`.

    If `--gallery` is given, no argument is taken as the gallery. If the environment variable `GALLERY_VARIABLE` names a
    gallery, the first argument is taken only if it looks like a gallery (an address, an existing file, or a name that
    ends in `.gallery`) and enough arguments remain for the command. Otherwise the first argument is the gallery.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite a gallery given as the first argument as `--gallery GALLERY`, and parse the arguments."""
        places = [] if self._is_given(args) else self._words(args)
        n_needed = sum(param.param_type_name == "argument" and param.required for param in self.params)
        is_named = bool(os.environ.get(GALLERY_VARIABLE))
        if places and (not is_named or (len(places) > n_needed and _may_be_gallery(args[places[0]]))):
            place = places[0]
            args = ["--gallery", args[place], *args[:place], *args[place + 1 :]]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line, with the optional gallery."""
        pieces = super().collect_usage_pieces(ctx)
        return [*pieces[:1], "[GALLERY]", *pieces[1:]]

    def _is_given(self, args: Sequence[str]) -> bool:
        options = args[: args.index("--")] if "--" in args else args
        return any(word.partition("=")[0] == "--gallery" for word in options)

    def _words(self, args: Sequence[str]) -> list[int]:
        """Return the indices of arguments that are neither options nor values of options."""
        take_a_value = {
            name
            for option in self.params
            if option.param_type_name == "option" and not getattr(option, "is_flag", False)
            for name in option.opts
        }
        places: list[int] = []
        place = 0
        while place < len(args):
            if args[place] == "--":
                return places + list(range(place + 1, len(args)))
            if not args[place].startswith("-") or args[place] == "-":
                places.append(place)
            place += 2 if args[place] in take_a_value else 1
        return places


def _may_be_gallery(word: str) -> bool:
    return is_address(word) or word.endswith(".gallery") or os.path.isfile(word)


def photo_numbers(words: Sequence[str]) -> list[int]:
    """Parse the numbers of `--photo`, or raise a usage error.

    >>> photo_numbers(["3", "5,8-10"])
    [3, 5, 8, 9, 10]
    """
    numbers: list[int] = []
    for part in ",".join(words).split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            low, high = 1, 0
        if not 0 < low <= high < 2**63 or high - low >= _MAX_RANGE:
            raise typer.BadParameter(
                f"must be numbers as gallery show prints them, such as 3,5,8-10, got {one_line(part)[:40]!r}",
                param_hint="--photo",
            )
        numbers += range(low, high + 1)
    return numbers


def parsed_metadata(text: str | None) -> dict[str, Any] | None:
    """Parse the JSON object of `--metadata`, or raise a usage error."""
    if text is None:
        return None
    from facespace.identification.stores.changes import checked_metadata

    try:
        return checked_metadata(json.loads(text))
    except (ValueError, RecursionError) as error:
        reason = str(error) if "metadata must" in str(error) else f"must be a JSON object ({error})"
        raise typer.BadParameter(reason, param_hint="--metadata") from None


def photos_in_words(n: int) -> str:
    """Return a number of photos in words.

    >>> photos_in_words(1), photos_in_words(2)
    ('1 photo', '2 photos')
    """
    return f"{n} photo{'' if n == 1 else 's'}"
