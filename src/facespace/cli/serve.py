"""facespace serve: an HTTP API and a page in the browser over a gallery."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from facespace.cli import serve_keys
from facespace.cli.shared.options import GALLERY_VARIABLE

app = typer.Typer(
    help="Serve a gallery over HTTP, with a page in the browser.",
    no_args_is_help=False,
    invoke_without_command=True,
    rich_markup_mode=None,
)
app.add_typer(serve_keys.app, name="key")


@app.callback()
def serve(
    context: typer.Context,
    gallery: Annotated[
        str,
        typer.Option(
            "--gallery",
            metavar="FILE|URL",
            envvar=GALLERY_VARIABLE,
            help="The gallery: a file, which is made if it is missing, or a server at postgresql:// or qdrant://.",
        ),
    ] = "people.gallery",
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes a free one and prints it.")
    ] = 8000,
    no_page: Annotated[bool, typer.Option("--no-page", help="Serve the API alone.")] = False,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="DIR", help="Folder of keys and events; by default beside the gallery."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=1, max=64, help="Processes.")] = 1,
) -> None:
    """Serve the API and the page until Ctrl+C or SIGTERM."""
    if context.invoked_subcommand is not None:
        serve_keys.check_options_before(context)
        return
    check_extra()
    from facespace.server.running import run
    from facespace.server.settings import Settings

    run(Settings(gallery=gallery, state=state or "", host=host, port=port, page=not no_page, workers=workers))


def check_extra() -> None:
    """A usage error where the packages of the extra `serve` are missing."""
    missing = [name for name in ("fastapi", "uvicorn", "python_multipart") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"serving needs the extra serve ({', '.join(missing)} missing): pip install 'facespace[serve]'"
        )
