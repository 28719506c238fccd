"""Verification during training: figures on sets of pairs, which are prepared once."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from facespace.backbones.backbone import Backbone
from facespace.datasets.pairs.pair_sets import PairSet, binary_pairs, read_pair_set
from facespace.detection.factory import create_detector
from facespace.detection.protocol import Detector
from facespace.embedding.embedder import Embedder
from facespace.errors import DatasetError, RecipeError
from facespace.evaluation.pairs import evaluate_pairs, usable_pairs
from facespace.faces.alignment import central_crop
from facespace.faces.crops import CropRecord
from facespace.faces.input_spec import InputSpec
from facespace.io.png import encode_png
from facespace.io.text import plain_text
from facespace.pipeline.photos import process
from facespace.runtime.torch_network import TorchNetwork
from facespace.training.recipe import Recipe

Metrics = dict[str, float | list[float] | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Verifier:
    """Represents the sets of pairs of a recipe, by name.

    If `threshold_from` has pairs under the name of a set, the set's threshold is chosen on these pairs.
    """

    sets: dict[str, PairSet]
    threshold_from: dict[str, PairSet]
    recipe: Recipe
    spec: InputSpec

    def measure(self, backbone: Backbone, device: str) -> dict[str, Metrics]:
        """Return each set's accuracy (with `accuracy_std` and `accuracy_interval`), VAL@FAR 1e-3, AUC, EER and seconds.

        The network is left in evaluation mode.
        """
        network = TorchNetwork(backbone, device=device)
        embedder = Embedder(network, name="training", spec=self.spec, fingerprint="")
        measured: dict[str, Metrics] = {}
        for name, pairs in self.sets.items():
            start = time.perf_counter()
            evaluation = evaluate_pairs(
                pairs,
                embedder,
                threshold_from=self.threshold_from.get(name),
                distance=self.recipe.verify_distance,
                flip=self.recipe.verify_flip,
                subtract_mean=self.recipe.verify_subtract_mean,
            )
            result = evaluation.verification
            val = result.val.get("1e-3")
            interval = evaluation.intervals.get("accuracy")
            measured[name] = {
                "accuracy": result.accuracy,
                "accuracy_std": result.accuracy_std,
                "accuracy_interval": None if interval is None else [float(bound) for bound in interval],
                "val_rate": None if val is None else val.value,
                "auc": result.auc,
                "eer": result.eer,
                "seconds": time.perf_counter() - start,
            }
        return measured


def prepare(recipe: Recipe, spec: InputSpec, *, detector: Detector | None = None) -> Verifier:
    """Open the sets of pairs in a recipe. Faces in whole photos are detected and cropped once, here.

    A set has the name of its file without ending; LFW's pairs are called `lfw`. A repeated name gets its position
    appended. Raises `RecipeError` if crops do not fit the network's `InputSpec`, as results on them would mislead.
    Raises `DatasetError` if photos are missing or folds are unequal, so that a run does not fail after an epoch.
    If `detector` is None, the default detector is used.
    """
    sets: dict[str, PairSet] = {}
    for file in recipe.verify_bin:
        sets[_name(Path(file).stem, sets)] = binary_pairs(Path(file).expanduser())
    lfw = _name("lfw", sets)
    threshold_from: dict[str, PairSet] = {}
    if recipe.verify_lfw:
        root = Path(recipe.verify_lfw).expanduser()
        for target, list_of_pairs in ((sets, recipe.verify_pairs), (threshold_from, recipe.verify_threshold_pairs)):
            if list_of_pairs:
                pairs = read_pair_set(Path(list_of_pairs).expanduser(), root, recipe.verify_aligned, spec)
                if n_missing := sum(file is None for file in pairs.files):
                    raise DatasetError(
                        f"verification on {pairs.name}: {n_missing} of its {len(pairs.files)} photos are missing below "
                        f"{plain_text(str(root))}; give the folder that has them all"
                    )
                target[lfw] = pairs if pairs.crops is not None else _cropped(pairs, spec, detector)
    for name, pairs in [*sets.items(), *threshold_from.items()]:
        misfit = pairs.crops.misfit(spec) if pairs.crops is not None else None
        if misfit:
            raise RecipeError(f"verification on {name}: {misfit}; give a set that fits, or another input_spec")
    for pairs in sets.values():
        usable_pairs(pairs, allow_missing=False)
    return Verifier(sets, threshold_from, recipe, spec)


def _name(name: str, taken: dict[str, PairSet]) -> str:
    return name if name not in taken else f"{name}-{len(taken) + 1}"


def _cropped(pairs: PairSet, spec: InputSpec, detector: Detector | None) -> PairSet:
    """Return the pairs with PNG crops in memory in place of photos. A photo without a face becomes an unreadable image."""
    files: list[Path | bytes | None] = []
    for photo in process(map(str, pairs.files), detector or create_detector(), keep_pixels=True):
        file = b""
        if photo.pixels is not None and photo.faces:
            file = encode_png(central_crop(photo.pixels, photo.faces, spec))
        files.append(file)
    return dataclasses.replace(pairs, files=files, crops=CropRecord(spec.size, spec.crop_margin, spec.template))
