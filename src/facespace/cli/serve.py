"""facespace serve: serve a gallery by an HTTP API and a web page."""

from __future__ import annotations

import importlib.util
from enum import Enum
from typing import Annotated

import typer

from facespace.cli import serve_keys
from facespace.cli.shared.options import DEFAULT_MIN_SIZE, GALLERY_VARIABLE, MinSize
from facespace.defaults import DEFAULT_MODEL

app = typer.Typer(
    help="Serve a gallery over HTTP, with a web page.",
    no_args_is_help=False,
    invoke_without_command=True,
    rich_markup_mode=None,
)
app.add_typer(serve_keys.app, name="key")

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "pydantic", "prometheus_client")
_MEGABYTE = 2**20


class LogLevel(str, Enum):
    """The lowest level that is logged."""

    info = "info"
    warning = "warning"
    error = "error"


@app.callback()
def serve(
    context: typer.Context,
    gallery: Annotated[
        str,
        typer.Option(
            "--gallery",
            metavar="FILE|URL",
            envvar=GALLERY_VARIABLE,
            help="The gallery: a file, which is created if missing, or a server at postgresql:// or qdrant://.",
        ),
    ] = "people.gallery",
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="The address to listen on; other than loopback addresses require API keys.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            metavar="N",
            min=0,
            max=65535,
            help="The port to listen on; 0 chooses a free one, which is printed.",
        ),
    ] = 8000,
    no_page: Annotated[bool, typer.Option("--no-page", help="Serve only the API, without the web page.")] = False,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="DIR", help="The folder of keys and events; by default next to the gallery."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME|PATH", help="The model of a gallery that has none yet.")
    ] = DEFAULT_MODEL,
    workers: Annotated[
        int,
        typer.Option("--workers", metavar="N", min=1, max=64, help="Number of processes, which share the CPU cores."),
    ] = 1,
    root_path: Annotated[
        str,
        typer.Option(
            "--root-path", metavar="PATH", help="The path under which a proxy publishes the service, such as /faces."
        ),
    ] = "",
    host_name: Annotated[
        list[str] | None,
        typer.Option(
            "--host-name",
            metavar="NAME",
            help="A host name of the service, as in the requests of clients; may be repeated.",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            "--proxy",
            metavar="ADDRESS",
            help="The address of a proxy to trust X-Forwarded headers from; may be repeated.",
        ),
    ] = None,
    min_size: MinSize = DEFAULT_MIN_SIZE,
    no_crops: Annotated[bool, typer.Option("--no-crops", help="Do not store the crops of enrolled faces.")] = False,
    unknowns_days: Annotated[
        float,
        typer.Option(
            "--unknowns-days",
            metavar="DAYS",
            min=0,
            max=36_500,
            help="Number of days to keep unknown faces, so that they can be named later; 0 keeps none.",
        ),
    ] = 0.0,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            metavar="N",
            min=0.001,
            help="Average number of requests per second allowed per key.",
            show_default="any",
        ),
    ] = None,
    burst: Annotated[
        int, typer.Option("--burst", metavar="N", min=1, help="Number of requests a key may make at once, with --rate.")
    ] = 100,
    max_body: Annotated[
        int, typer.Option("--max-body", metavar="MB", min=1, max=1024, help="Largest size of a request, in megabytes.")
    ] = 32,
    max_photos: Annotated[
        int, typer.Option("--max-photos", metavar="N", min=1, max=1000, help="Largest number of photos in a request.")
    ] = 100,
    queue: Annotated[
        int,
        typer.Option(
            "--queue", metavar="N", min=1, max=10_000, help="Largest number of photos that wait to be processed."
        ),
    ] = 64,
    request_seconds: Annotated[
        float,
        typer.Option("--request-seconds", metavar="S", min=1, max=3600, help="Longest time for a request, in seconds."),
    ] = 60.0,
    allow_private_webhooks: Annotated[
        bool, typer.Option("--allow-private-webhooks", help="Allow webhooks to call addresses in the local network.")
    ] = False,
    mqtt: Annotated[
        str,
        typer.Option(
            "--mqtt",
            metavar="URL",
            help="The MQTT broker to publish events to, as mqtt://user@host/topic (needs the extra mqtt).",
        ),
    ] = "",
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", help="The lowest level that is logged to stderr.")
    ] = LogLevel.info,
) -> None:
    """Serve the API and the page until Ctrl+C or SIGTERM.

    The address is printed when the service is ready. Photos may have up to 50 megapixels; change that limit with
    `facespace --max-pixels N serve`.
    """
    if context.invoked_subcommand is not None:
        serve_keys.check_options_before(context)
        return
    check_extra()
    from facespace.io.image import pixel_limit
    from facespace.server.running import run
    from facespace.server.settings import MAX_SERVED_PIXELS, Settings

    run(
        Settings(
            gallery=gallery, state=state or "", model=model, host=host, port=port, page=not no_page, workers=workers,
            root_path=root_path, hosts=tuple(host_name or ()), forwarded_from=tuple(proxy or ()), min_size=min_size,
            keep_crops=not no_crops, unknowns_days=unknowns_days or None, rate_per_second=rate, burst=burst,
            max_body=max_body * _MEGABYTE, max_photos=max_photos, max_pixels=pixel_limit(MAX_SERVED_PIXELS), queue=queue,
            request_seconds=request_seconds, allow_private_webhooks=allow_private_webhooks, mqtt=mqtt,
            log_level=log_level.value,
        )
    )  # fmt: skip


def check_extra() -> None:
    """Raise `ValueError` if packages of the extra `serve` are missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"serving needs the extra serve ({', '.join(missing)} missing): pip install 'facespace[serve]'"
        )
