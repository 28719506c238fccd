"""Options that several commands share, each spelled and explained once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from facespace.defaults import DEFAULT_MODEL


class Device(str, Enum):
    """What computes embeddings."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


Images = Annotated[list[str], typer.Argument(metavar="IMAGE", help="Photos, or folders to search for photos.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of text.")]
Draw = Annotated[Path | None, typer.Option("--draw", metavar="DIR", help="Write annotated copies into this folder.")]
Sights = Annotated[
    list[str] | None,
    typer.Argument(metavar="IMAGE", help="Photos and videos, or folders to search for photos.", show_default=False),
]
Camera = Annotated[
    int | None,
    typer.Option(
        "--camera", metavar="N", min=0, help="Name who is in front of this camera, the first is 0, in a window."
    ),
]
Every = Annotated[
    int | None,
    typer.Option("--every", metavar="N", min=1, help="Of a video look at every N-th frame, not at 5 a second."),
]
Subtitles = Annotated[
    Path | None,
    typer.Option("--subtitles", metavar="DIR", help="Write who is on screen in videos into this folder, as .srt."),
]
MinSize = Annotated[
    float,
    typer.Option("--min-size", metavar="PX", min=2, help="Side of the smallest face looked for; larger is faster."),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME|PATH",
        help="A model of `facespace models`, a model folder, or a file (ONNX, TF1 .pb).",
    ),
]
OptionalModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|PATH",
        help="A model of `facespace models`, a model folder, or a file; by default the one that what is read was made "
        f"with, or {DEFAULT_MODEL}.",
        show_default=False,
    ),
]
DetectorName = Annotated[
    str | None,
    typer.Option(
        "--detector",
        metavar="NAME",
        help="yunet or mtcnn; by default the one the model's crops come from.",
        show_default=False,
    ),
]
EmbeddingDevice = Annotated[
    Device,
    typer.Option("--device", help="Where embeddings are computed; cuda and mps by torch, auto is the processor."),
]
Repeats = Annotated[
    bool, typer.Option("--repeats", help="A person may be in a picture more than once: collages, photo books, mirrors.")
]
TryRotations = Annotated[
    bool,
    typer.Option(
        "--try-rotations",
        help="For photos turned without EXIF: look in four turns, slower. Boxes are those of the upright photo.",
    ),
]
GALLERY_VARIABLE = "FACESPACE_GALLERY"
GalleryFile = Annotated[
    str,
    typer.Option(
        "--gallery",
        metavar="FILE|URL",
        envvar=GALLERY_VARIABLE,
        help="The gallery: a file, or a server at postgresql:// or qdrant://.",
    ),
]
GalleryOrServer = Annotated[
    str | None,
    typer.Option(
        "--gallery",
        metavar="FILE|URL",
        envvar=GALLERY_VARIABLE,
        help="The gallery: a file, or a server at postgresql:// or qdrant://; --server takes its place.",
        show_default=False,
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="A service of `facespace serve`, like http://127.0.0.1:8000.",
        show_default=False,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="KEY",
        envvar="FACESPACE_KEY",
        help="The key for the server; the variable hides it from other users of the machine.",
        show_default=False,
        show_envvar=True,
    ),
]
OptionalGallery = Annotated[
    str | None,
    typer.Option(
        "--gallery", metavar="FILE|URL", envvar=GALLERY_VARIABLE, help="Call groups by the people enrolled here."
    ),
]
Collection = Annotated[
    str, typer.Option("--collection", metavar="NAME", help="Which of several collections of people in the gallery.")
]
ExternalId = Annotated[
    str | None,
    typer.Option("--external-id", metavar="ID", help="What another system calls the person.", show_default=False),
]
Largest = Annotated[bool, typer.Option("--largest", help="Of several faces in a photo take the largest.")]

Aligned = Annotated[
    bool, typer.Option("--aligned", help="The images are aligned crops, though there is no align.json beside them.")
]

DEFAULT_MIN_SIZE = 20.0


def check_gallery_or_server(context: typer.Context, gallery: str | None, server: str | None, *local: str) -> None:
    """A usage error unless one of both is given. `local` are parameters that a server does not take, by their names."""
    if server is None:
        if gallery is None:
            raise typer.BadParameter("is missing; give --gallery FILE, or --server URL", param_hint="--gallery")
        return
    for name in ("gallery", *local):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter("is not for --server: the service decides it", param_hint=option)
