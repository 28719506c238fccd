"""facespace gallery: who is enrolled, and changes to it that need no photo."""

from __future__ import annotations

from typing import Annotated

import typer

from facespace.cli import gallery_exchange
from facespace.cli.shared.options import GalleryFile, Json
from facespace.cli.shared.output import write_json, write_line
from facespace.io.text import clean_name

app = typer.Typer(help="List, rename and remove people of a gallery.", no_args_is_help=True, rich_markup_mode=None)
gallery_exchange.add_commands(app)


@app.command("list")
def list_(gallery: GalleryFile, json: Json = False) -> None:
    """Everyone enrolled, with the number of photos."""
    from facespace.identification.gallery import Gallery

    with Gallery(gallery) as opened:
        people = opened.people()
    for person in people:
        if json:
            write_json({"name": person.name, "photos": person.n_photos, "added": person.added})
        else:
            write_line(f"{person.n_photos:5d}  {person.name}")
    if not json:
        write_line(f"{len(people)} people")


@app.command()
def remove(
    gallery: GalleryFile, names: Annotated[list[str], typer.Argument(metavar="NAME", help="Whom to erase.")]
) -> None:
    """Erase people and every vector of theirs, from the disk too."""
    from facespace.identification.gallery import Gallery

    with Gallery(gallery) as opened:
        for name in names:
            n_photos = opened.remove(name)
            write_line(f"{clean_name(name)}: {n_photos} photo{'' if n_photos == 1 else 's'} removed")


@app.command()
def rename(
    gallery: GalleryFile,
    old: Annotated[str, typer.Argument(metavar="OLD")],
    new: Annotated[str, typer.Argument(metavar="NEW")],
) -> None:
    """Give a person another name."""
    from facespace.identification.gallery import Gallery

    with Gallery(gallery) as opened:
        opened.rename(old, new)
    write_line(f"{clean_name(old)} is now {clean_name(new)}")
