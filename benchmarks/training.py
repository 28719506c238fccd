"""Training from scratch on two cores: the recipe `cpu` with three losses, verified on people not seen in training.

130 people of train_182, MobileFaceNet. Each network is verified on LFW view 1 (whole photos, threshold from pairsDevTrain,
accuracy on pairsDevTest, interval over people), and so is the untrained network. `wall` is the whole command.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from facespace.training import initial_model as fine_tuning, recipe
from facespace.training.state import Progress, write_trained

LOSSES = {
    "softmax + center": [],
    "triplet": ["images_per_person=4", "epoch_size=105", 'losses=[{name="triplet", margin=0.2, miner="semi-hard"}]'],
    "ArcFace": ['losses=[{name="arcface", margin=0.2, scale=16.0}]'],
}


def facespace(*arguments: object) -> str:
    command = [sys.executable, "-m", "facespace", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def verified(model: Path, view: Path) -> tuple[float, float]:
    report = facespace(
        "verify", "lfw", view / "images", "--pairs", view / "pairsDevTest.txt",
        "--threshold-from", view / "pairsDevTrain.txt", "--model", model, "--json",
    )  # fmt: skip
    figures = json.loads(report)
    low, high = figures["intervals_95_over_people"]["accuracy"]
    print(
        f"  LFW view 1: accuracy {figures['accuracy']['mean']:.4f}, 95 % over people {low:.4f} to {high:.4f}; AUC {figures['auc']:.4f}; EER {figures['eer']:.4f}",
        flush=True,
    )
    return low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE that overrides all recipes")
    args = parser.parse_args()
    view, data = args.shared / "data/lfw_view1", args.shared / "data/train_182"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        chosen = recipe.load("cpu", [f"data={data}", *args.overrides])
        torch.manual_seed(chosen.seed)
        start = fine_tuning.start(chosen, None)  # type: ignore[arg-type]
        write_trained(
            root / "untrained", start.backbone, start.spec, name="untrained", recipe=chosen, progress=Progress(),
            dataset={}, onnx=True,
        )  # fmt: skip
        print("untrained", flush=True)
        untrained = verified(root / "untrained", view)

        for name in args.losses:
            overrides = LOSSES[name]
            shown = " ".join(f"'{override}'" for override in [*overrides, *args.overrides])
            print(f"{name}: $ facespace train cpu data=train_182 {shown}".rstrip(), flush=True)
            run = root / name.replace(" ", "")
            begin = time.perf_counter()
            lines = facespace("train", "cpu", f"data={data}", *overrides, *args.overrides, "--output", run)
            wall = time.perf_counter() - begin
            last = [line for line in lines.splitlines() if line.startswith("step ")][-1]
            print(f"  {last.rpartition(', rate')[0]}")
            low, _ = verified(run / "model", view)
            holds = low > untrained[1]
            print(
                f"  wall {wall:.0f} s on {torch.get_num_threads()} threads; lower end above the untrained upper end: "
                f"{'yes' if holds else 'NO'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
