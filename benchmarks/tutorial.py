"""The FaceNet tutorial from its first command to its last, on a small scale, with all output.

Twelve people of the album replace the tutorial's dataset, and 120 pairs of LFW view 1 replace its pairs.txt (six
of each kind in ten folds). One epoch of eight small batches trains nothing useful: the run shows that each command
works and what it prints. The classifier and the prediction use casia-webface.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PEOPLE, FOLDS, PAIRS = 12, 10, 6


def show(arguments: str, folder: Path, *, stderr: bool = True) -> None:
    print(f"$ facespace {arguments}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "facespace", *arguments.split()], cwd=folder, capture_output=True, text=True, check=False
    )
    out = done.stdout + (done.stderr if stderr else "")
    print(out.replace(str(folder), "."), end="", flush=True)
    if done.returncode:
        print(f"(exit code {done.returncode})")
    print(flush=True)


def pairs(view: Path, out: Path) -> None:
    """The first pairs of pairsDevTest as a pairs.txt of ten folds, and links to their photos."""
    lines = [line.split("\t") for line in (view / "pairsDevTest.txt").read_text().splitlines()[1:]]
    same = [line for line in lines if len(line) == 3][: FOLDS * PAIRS]
    different = [line for line in lines if len(line) == 4][: FOLDS * PAIRS]
    text = [f"{FOLDS}\t{PAIRS}"]
    for fold in range(FOLDS):
        part = slice(fold * PAIRS, (fold + 1) * PAIRS)
        text += ["\t".join(line) for line in [*same[part], *different[part]]]
    (out / "pairs.txt").write_text("\n".join(text) + "\n")
    for line in [*same, *different]:
        people = (
            [(line[0], line[1]), (line[0], line[2])] if len(line) == 3 else [(line[0], line[1]), (line[2], line[3])]
        )
        for name, number in people:
            link = out / "lfw" / name / f"{name}_{int(number):04}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                os.symlink((view / "images" / name / link.name).resolve(), link)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    args = parser.parse_args()
    data = args.shared.resolve() / "data"
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary).resolve()
        for person in sorted((data / "album/known").iterdir())[:PEOPLE]:
            (here / "raw").mkdir(exist_ok=True)
            os.symlink(person, here / "raw" / person.name)
        stranger = sorted((data / "album/unknown").iterdir())[0]
        os.symlink(sorted(stranger.iterdir())[0], here / "stranger.jpg")
        known = sorted((here / "raw").iterdir())[3]
        os.symlink(sorted(known.iterdir())[-1].resolve(), here / "known.jpg")
        pairs(data / "lfw_view1", here)
        show("facenet align_dataset_mtcnn raw raw-182 --image_size 182 --margin 44", here)
        show("facenet align_dataset_mtcnn lfw lfw-160 --image_size 160 --margin 32", here)
        show(
            "facenet train_softmax --logs_base_dir logs --models_base_dir models --data_dir raw-182 --image_size 160 "
            "--model_def models.squeezenet --batch_size 8 --epoch_size 8 --max_nrof_epochs 1 --optimizer RMSPROP "
            "--learning_rate -1 --learning_rate_schedule_file data/learning_rate_schedule_classifier_casia.txt "
            "--keep_probability 0.8 --random_crop --random_flip --weight_decay 5e-5 --center_loss_factor 1e-2 "
            "--center_loss_alfa 0.9 --lfw_dir lfw-160 --lfw_pairs pairs.txt",
            here,
        )
        run = next((here / "logs").iterdir())
        print(f"$ tensorboard --logdir logs --port 6006      # what it shows of {run.name[:4]}…")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(run))
        events.Reload()
        print("\n".join(f"  {tag}" for tag in events.Tags()["scalars"]) + "\n", flush=True)
        show("facenet validate_on_lfw lfw-160 casia-webface --lfw_pairs pairs.txt --use_flipped_images", here)
        show("facenet align_dataset_mtcnn raw raw-160 --image_size 160 --margin 32", here)
        split = "--use_split_dataset --min_nrof_images_per_class 10 --nrof_train_images_per_class 6"
        show(f"facenet classifier TRAIN raw-160 casia-webface people.pkl {split}", here)
        show(f"facenet classifier CLASSIFY raw-160 casia-webface people.pkl {split}", here)
        show("facenet predict known.jpg stranger.jpg casia-webface people.pkl", here)


if __name__ == "__main__":
    main()
