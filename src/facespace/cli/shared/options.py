"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from facespace.defaults import DEFAULT_MODEL


class Device(str, Enum):
    """Where embeddings are computed."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


Images = Annotated[list[str], typer.Argument(metavar="IMAGE", help="Photos, or folders to search for photos.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line instead of text.")]
Draw = Annotated[Path | None, typer.Option("--draw", metavar="DIR", help="Write annotated copies to this folder.")]
PhotosAndVideos = Annotated[
    list[str] | None,
    typer.Argument(metavar="IMAGE", help="Photos and videos, or folders to search for photos.", show_default=False),
]
Camera = Annotated[
    int | None,
    typer.Option(
        "--camera",
        metavar="N",
        min=0,
        help="Name the people in front of this camera, in a window; the first camera is 0.",
    ),
]
Every = Annotated[
    int | None,
    typer.Option(
        "--every", metavar="N", min=1, help="Process every N-th frame of a video; by default 5 frames per second."
    ),
]
Subtitles = Annotated[
    Path | None,
    typer.Option(
        "--subtitles",
        metavar="DIR",
        help="Write subtitles (.srt) with the names of the people in each video to this folder.",
    ),
]
MinSize = Annotated[
    float,
    typer.Option(
        "--min-size",
        metavar="PX",
        min=2,
        help="Side of the smallest face to find, in pixels; larger values are faster.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME|PATH",
        help="A model name from `facespace models`, a model folder, or a model file (ONNX, TF1 .pb).",
    ),
]
OptionalModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|PATH",
        help="A model name from `facespace models`, a model folder, or a model file; by default the model that the input was "
        f"made with, or {DEFAULT_MODEL}.",
        show_default=False,
    ),
]
DetectorName = Annotated[
    str | None,
    typer.Option(
        "--detector",
        metavar="NAME",
        help="The face detector, yunet or mtcnn; by default the one of the model.",
        show_default=False,
    ),
]
EmbeddingDevice = Annotated[
    Device,
    typer.Option("--device", help="Where embeddings are computed; auto is the CPU, cuda and mps need torch."),
]
Repeats = Annotated[
    bool,
    typer.Option("--repeats", help="Let a person appear more than once in a picture: collages, photo books, mirrors."),
]
TryRotations = Annotated[
    bool,
    typer.Option(
        "--try-rotations",
        help="Also search each photo rotated by 90, 180 and 270 degrees (slower). Boxes refer to the upright photo.",
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
        help="The gallery: a file, or a server at postgresql:// or qdrant://; not needed with --server.",
        show_default=False,
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="The URL of a service started by `facespace serve`, such as http://127.0.0.1:8000.",
        show_default=False,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="KEY",
        envvar="FACESPACE_KEY",
        help="The API key of the service. Other users of the machine cannot see it in the environment variable.",
        show_default=False,
        show_envvar=True,
    ),
]
OptionalGallery = Annotated[
    str | None,
    typer.Option(
        "--gallery",
        metavar="FILE|URL",
        envvar=GALLERY_VARIABLE,
        help="Name groups after the people enrolled in this gallery.",
    ),
]
Collection = Annotated[
    str, typer.Option("--collection", metavar="NAME", help="The collection of people within the gallery.")
]
ExternalId = Annotated[
    str | None,
    typer.Option("--external-id", metavar="ID", help="The id of the person in another system.", show_default=False),
]
Largest = Annotated[bool, typer.Option("--largest", help="Use the largest face of a photo with several.")]

Aligned = Annotated[
    bool, typer.Option("--aligned", help="Treat the images as aligned crops even if their folder has no align.json.")
]

DEFAULT_MIN_SIZE = 20.0


def check_gallery_or_server(context: typer.Context, gallery: str | None, server: str | None, *local: str) -> None:
    """Raise a usage error if `--gallery` and `--server` are missing, or if `--server` excludes a given option.

    `local` names the parameters that apply only without `--server`.
    """
    if server is None:
        if gallery is None:
            raise typer.BadParameter("is missing; give --gallery FILE, or --server URL", param_hint="--gallery")
        return
    for name in ("gallery", *local):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter("cannot be used with --server, where the service decides it", param_hint=option)
