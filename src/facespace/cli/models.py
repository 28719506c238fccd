"""facespace models: list the named models with their licences, and download, add or remove them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facespace.cli.shared.options import Json
from facespace.cli.shared.output import progress_bar, write_json, write_line
from facespace.io.text import plain_text

if TYPE_CHECKING:
    from facespace.conversion.installer import Installed
    from facespace.models.zoo import ModelCard

app = typer.Typer(help="List, download, add and remove named models.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model name from `facespace models`.")]


@app.callback(invoke_without_command=True)
def _models(context: typer.Context, json: Json = False) -> None:
    """List, download, add and remove named models. Without a command, list them."""
    if context.invoked_subcommand is None:
        list_(json)
    elif json:
        raise typer.BadParameter("can only be used for listing: facespace models list --json", param_hint="--json")


@app.command("list")
def list_(json: Json = False) -> None:
    """List the named models with origin, licence, training data and location."""
    from facespace.defaults import DEFAULT_MODEL
    from facespace.errors import ModelError
    from facespace.models.zoo import MODELS, RESEARCH_NOTE, locate

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
                    "detector": card.detector,
                    "thresholds": _conditions(card) or None,
                    "note": RESEARCH_NOTE,
                    "url": card.url or None,
                }
            )
            continue
        write_line(f"{card.name}{' (default)' if card.name == DEFAULT_MODEL else ''}")
        spec = card.spec
        for label, text in (
            ("network", f"{card.network}, {card.dimension} dimensions"),
            ("input", f"{spec.size} px, {spec.template} crop, margin {spec.crop_margin} px, {spec.standardization}"),
            ("detector", card.detector),
            ("trained on", card.training_data),
            ("accuracy", card.accuracy),
            ("thresholds", _conditions(card)),
            ("licence", card.licence),
            ("origin", card.origin),
            ("sha256", card.sha256),
            ("web", card.url),
            ("file", _place(card) if card.url else place),
        ):
            if text:
                write_line(f"  {label:<11}{plain_text(text)}")
    if not json:
        write_line(f"\n{RESEARCH_NOTE}")


def _conditions(card: ModelCard) -> str:
    """Describe the photos that a model's thresholds were measured on; empty if it has no thresholds."""
    from facespace.embedding import calibration

    found = calibration.find(card.sha256, runtime="onnxruntime", precision="float32", spec=card.spec)
    return "" if found is None else f"measured on {found.conditions}"


def _place(card: ModelCard) -> str:
    """Return the folder that a model is installed in, or how to install it.

    If the model was not made from the published file, also describe the file that it was made from.
    """
    from facespace.conversion.installer import read_installed
    from facespace.errors import ModelError

    try:
        installed = read_installed(card)
    except ModelError as error:
        return str(error)
    if installed is None:
        return f"not installed; get it with: facespace models download {card.name}"
    if installed.verified == "published":
        return str(installed.folder)
    return f"{installed.folder}, from a file with the SHA-256 {installed.sha256}, {_VOUCHED[installed.verified]}"


@app.command()
def download(
    name: Name,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Only download and verify the file to DIR, for installation on another machine.",
        ),
    ] = None,
) -> None:
    """Download a model, verify it, and install it.

    Run an interrupted download again to resume it. FACESPACE_MIRROR is a folder or address to get the files from instead
    of the web; FACESPACE_HOME is the folder to install to.
    """
    from facespace.conversion.installer import download, download_file

    card = _card(name)
    _notice(card)
    with progress_bar(card.file) as progress:
        if output is None:
            installed = download(card, progress=progress)
        else:
            path, digest = download_file(card, output, progress=progress)
    if output is None:
        _print_installed(card, installed)
    else:
        write_line(f"{plain_text(str(path))}  sha256 {digest}")
        write_line(f"to install it on another machine: facespace models add {card.file} {card.name}")


@app.command()
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The published file, or another file that you trust.")],
    name: Name,
    sha256: Annotated[
        str | None,
        typer.Option("--sha256", metavar="HEX", help="The expected SHA-256, if FILE is not the published file."),
    ] = None,
    unverified: Annotated[
        bool,
        typer.Option("--unverified", help="Accept a file without verification; its SHA-256 is printed and recorded."),
    ] = False,
) -> None:
    """Verify a local file and install its model, without network access."""
    from facespace.conversion.installer import add

    card = _card(name)
    expected = _checked(sha256, unverified)
    _notice(card)
    _print_installed(card, add(file, card, sha256=expected, unverified=unverified))


@app.command()
def remove(name: Name) -> None:
    """Remove an installed model."""
    from facespace.conversion.installer import remove

    write_line(f"{name}: removed {plain_text(str(remove(_card(name))))}")


def _card(name: str) -> ModelCard:
    from facespace.errors import ModelError
    from facespace.models.zoo import MODELS

    card = MODELS.get(name)
    if card is None:
        raise ModelError(f"{plain_text(name)}: not a named model; the names are {', '.join(MODELS)}")
    return card


def _checked(sha256: str | None, unverified: bool) -> str | None:
    """Return `--sha256` in lower case, or None. Raises a usage error if it is invalid, or given with `--unverified`."""
    if sha256 is None:
        return None
    if unverified:
        raise typer.BadParameter("and --unverified exclude each other", param_hint="--sha256")
    digits = sha256.strip().lower()
    if len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise typer.BadParameter("must be 64 hexadecimal digits", param_hint="--sha256")
    return digits


def _notice(card: ModelCard) -> None:
    """Print the origin and licence of a model before it is installed."""
    from facespace.models.zoo import RESEARCH_NOTE

    for text in (
        card.origin,
        f"trained on {card.training_data}",
        f"licence of the file: {card.licence}",
        RESEARCH_NOTE,
    ):
        print(f"{card.name}: {text}", file=sys.stderr, flush=True)


def _print_installed(card: ModelCard, installed: Installed) -> None:
    for remark in installed.remarks:
        print(f"{card.name}: {plain_text(remark)}", file=sys.stderr, flush=True)
    state = "installed" if installed.new else "already installed"
    write_line(f"{card.name}: {state} in {plain_text(str(installed.folder))}")
    write_line(f"sha256 {installed.sha256}, {_VOUCHED[installed.verified]}")


_VOUCHED = {
    "published": "as published",
    "given": "as given by --sha256",
    "unverified": "not verified",
}
