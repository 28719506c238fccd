"""The log of a run, read back with TensorBoard's own reader."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facespace.errors import RuntimeUnavailable
from facespace.models.folder import METRICS
from facespace.training.run_folder import read_metrics
from facespace.training.run_log import RunLog, describe
from support.tensorboard import events


def row(step: int, loss: float = 5.0, **more: Any) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": 1,
        "learning_rate": 0.05,
        "total_loss": loss,
        "losses": {"softmax": loss - 1.0, "center": 1.0},
        "facts": {"softmax": {"accuracy": 0.25}, "center": {"distance": 2.0}},
        "gradient_norm": 3.0,
        "regularization_loss": 0.5,
        "images_per_second": 40.0,
        "waiting": 0.125,
        **more,
    }


FIGURES = {"accuracy": 0.9, "val_rate": None, "auc": 0.95, "eer": 0.1, "seconds": 7.0}


def points(found: Any, tag: str) -> list[tuple[int, float]]:
    return [(point.step, round(point.value, 5)) for point in found.Scalars(tag)]


def test_tags_are_those_of_2018(tmp_path):
    log = RunLog(tmp_path, step=0)
    log.step(row(1, 5.0))
    log.step(row(20, 3.0))
    log.verification(20, 1, {"lfw": {**FIGURES, "val_rate": 0.5}, "cfp": FIGURES})
    log.seconds(20, "save_variables", 1.5)
    log.close()
    found = events(tmp_path)
    assert set(found.Tags()["scalars"]) == {
        *("total_loss", "total_loss_raw", "cross_entropy", "cross_entropy_raw", "learning_rate"),
        *("loss/softmax", "loss/center", "softmax/accuracy", "center/distance"),
        *("gradient_norm", "regularization_loss", "images_per_second", "time/waiting_share"),
        *("lfw/accuracy", "lfw/val_rate", "lfw/auc", "lfw/eer", "time/lfw"),
        *("cfp/accuracy", "cfp/auc", "cfp/eer", "time/cfp", "time/save_variables"),
    }
    assert points(found, "total_loss_raw") == [(1, 5.0), (20, 3.0)]
    assert points(found, "total_loss") == [(1, 5.0), (20, 4.8)]  # 0.9 of the old average, 0.1 of the new value
    assert points(found, "cross_entropy_raw") == [(1, 4.0), (20, 2.0)]
    assert points(found, "cross_entropy") == [(1, 4.0), (20, 3.8)]
    assert points(found, "loss/center") == [(1, 1.0), (20, 1.0)]
    assert points(found, "softmax/accuracy") == [(1, 0.25), (20, 0.25)]
    assert points(found, "center/distance") == [(1, 2.0), (20, 2.0)]
    assert points(found, "learning_rate") == [(1, 0.05), (20, 0.05)]
    assert points(found, "gradient_norm")[0] == (1, 3.0)
    assert points(found, "regularization_loss")[0] == (1, 0.5)
    assert points(found, "images_per_second")[0] == (1, 40.0)
    assert points(found, "time/waiting_share")[0] == (1, 0.125)
    assert points(found, "lfw/accuracy") == [(20, 0.9)] and points(found, "lfw/val_rate") == [(20, 0.5)]
    assert points(found, "cfp/auc") == [(20, 0.95)] and points(found, "cfp/eer") == [(20, 0.1)]
    assert points(found, "time/lfw") == [(20, 7.0)] and points(found, "time/save_variables") == [(20, 1.5)]


def test_without_a_classifier_there_is_no_cross_entropy(tmp_path):
    log = RunLog(tmp_path, step=0)
    log.step(row(1, losses={"triplet": 0.2}, facts={"triplet": {"active": 0.5}}))
    log.close()
    tags = events(tmp_path).Tags()["scalars"]
    assert "triplet/active" in tags and "loss/triplet" in tags
    assert not [tag for tag in tags if "entropy" in tag]


def test_lines_are_there_at_once(tmp_path):
    log = RunLog(tmp_path, step=0)
    log.step(row(1))
    log.verification(1, 1, {"lfw": FIGURES})
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert lines == [row(1), {"step": 1, "epoch": 1, "verification": {"lfw": FIGURES}}]
    log.close()


@pytest.mark.parametrize("last", [0, 20])
def test_lines_after_the_checkpoint_are_removed(tmp_path, last):
    """Also if there was no checkpoint yet."""
    log = RunLog(tmp_path, step=0)
    for step in (10, 20, 30, 40):
        log.step(row(step, float(step)))
    log.verification(40, 1, {"lfw": FIGURES})
    log.close()
    log = RunLog(tmp_path, step=last)
    kept = [step for step in (10, 20, 30, 40) if step <= last]
    assert [line["step"] for line in read_metrics(tmp_path)] == kept
    log.step(row(25, 7.0))
    log.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [*kept, 25]
    found = events(tmp_path)
    assert points(found, "total_loss_raw") == [*((step, float(step)) for step in kept), (25, 7.0)]
    assert points(found, "loss/center")[-1] == (25, 1.0)


def test_crops_as_the_network_sees_them(tmp_path):
    crops = np.random.default_rng(0).integers(0, 256, (11, 6, 6, 3)).astype(np.uint8)
    log = RunLog(tmp_path, step=0)
    log.crops(1, crops)
    log.close()
    with Image.open(tmp_path / "crops.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (12, 48, 3)
    for k, crop in enumerate(crops):
        top, left = k // 8 * 6, k % 8 * 6
        np.testing.assert_array_equal(sheet[top : top + 6, left : left + 6], crop)
    assert not sheet[6:, 18:].any()
    found = events(tmp_path)
    [shown] = found.Images("crops")
    assert (shown.step, shown.width, shown.height) == (1, 48, 12)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["crops.png", "events.out.tfevents.0000000000"]


@pytest.mark.parametrize(("n", "shape"), [(1, (4, 4, 3)), (8, (4, 32, 3)), (100, (16, 32, 3))])
def test_sheets_of_crops(tmp_path, n, shape):
    log = RunLog(tmp_path, step=0)
    log.crops(1, np.zeros((0, 4, 4, 3), np.uint8))
    assert not (tmp_path / "crops.png").exists()
    log.crops(1, np.full((n, 4, 4, 3), 9, np.uint8))
    log.close()
    with Image.open(tmp_path / "crops.png") as image:
        assert np.asarray(image).shape == shape


def test_histograms(tmp_path):
    log = RunLog(tmp_path, step=0)
    log.histograms(5, {"backbone": torch.nn.Linear(2, 3), "loss.softmax": torch.nn.Linear(3, 2, bias=False)})
    log.close()
    found = events(tmp_path)
    assert set(found.Tags()["histograms"]) == {"backbone/weight", "backbone/bias", "loss.softmax/weight"}
    [histogram] = found.Histograms("backbone/weight")
    assert (histogram.step, histogram.histogram_value.num) == (5, 6.0)


def test_embeddings_for_the_projector(tmp_path):
    vectors = torch.eye(5)[:, :3].contiguous()
    crops = np.repeat(np.arange(5, dtype=np.uint8)[:, None, None, None] * 50, 8, 1).repeat(8, 2).repeat(3, 3)
    log = RunLog(tmp_path, step=0)
    log.embeddings(7, vectors, ["Ann", "Ann", "王", "two\nlines\tand more", "Bob"], crops)
    log.close()
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "00007/default/tensors.tsv"' in config
    assert 'metadata_path: "00007/default/metadata.tsv"' in config
    assert "single_image_dim: 4" in config
    folder = tmp_path / "00007" / "default"
    assert (folder / "metadata.tsv").read_text("utf-8").splitlines() == [
        "Ann",
        "Ann",
        "王",
        "two\\nlines\\tand more",
        "Bob",
    ]
    rows = [[float(value) for value in line.split("\t")] for line in (folder / "tensors.tsv").read_text().splitlines()]
    assert rows == vectors.tolist()
    with Image.open(folder / "sprite.png") as image:
        sprite = np.asarray(image)
    assert sprite.shape == (12, 12, 3)
    assert [int(sprite[k // 3 * 4, k % 3 * 4, 0]) for k in range(5)] == [0, 50, 100, 150, 200]


def test_one_embedding_is_not_shown(tmp_path):
    log = RunLog(tmp_path, step=0)
    log.embeddings(7, torch.zeros(1, 3), ["Ann"], np.zeros((1, 8, 8, 3), np.uint8))
    log.close()
    assert not (tmp_path / "projector_config.pbtxt").exists()


def test_only_the_chief_writes(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 9}\n')
    log = RunLog(tmp_path, step=1, chief=False)
    log.step(row(1))
    log.verification(1, 1, {"lfw": FIGURES})
    log.seconds(1, "a", 1.0)
    log.crops(1, np.zeros((2, 4, 4, 3), np.uint8))
    log.histograms(1, {"a": torch.nn.Linear(1, 1)})
    log.embeddings(1, torch.zeros(2, 2), ["a", "b"], np.zeros((2, 4, 4, 3), np.uint8))
    log.close()
    assert [file.name for file in tmp_path.iterdir()] == [METRICS]
    assert (tmp_path / METRICS).read_text() == '{"step": 9}\n'


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        RuntimeUnavailable, match=r"TensorBoard, which is not installed; pip install 'facespace\[train\]'"
    ):
        RunLog(tmp_path, step=0)
    RunLog(tmp_path, step=0, chief=False).close()


@pytest.mark.parametrize(
    ("more", "seconds", "line"),
    [
        (
            {},
            0,
            "step 3/90 epoch 1: loss 5.0000 (softmax 4.0000, center 1.0000), accuracy 25.0 %, 40 images/s, "
            "waiting 12 %, rate 0.05, 0:00 left",
        ),
        (
            {"losses": {"triplet": 0.25}, "facts": {"triplet": {"active": 0.5, "distance": 1.0}}, "total_loss": 0.25},
            59.6,
            "step 3/90 epoch 1: loss 0.2500, active 50.0 %, 40 images/s, waiting 12 %, rate 0.05, 1:00 left",
        ),
        (
            {"losses": {"a": 1.0}, "facts": {"a": {"accuracy_shard": 0.999}}, "learning_rate": 1.23456e-5},
            36_000 + 125,
            "step 3/90 epoch 1: loss 5.0000, accuracy shard 99.9 %, 40 images/s, waiting 12 %, rate 1.235e-05, "
            "10:02:05 left",
        ),
    ],
)
def test_the_line_of_a_terminal(more, seconds, line):
    assert describe(row(3, **more), n_steps=90, seconds_left=seconds) == line
