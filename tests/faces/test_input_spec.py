"""Tests input specs: invalid values, preprocessing, serialisation and description."""

from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from facespace import InputSpec, ModelError
from facespace.faces.input_spec import ARCFACE_SIZE, INPUT_SPECS, describe_spec

GOOD = {"size": 160, "template": "box"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 15),
        ("size", 1025),
        ("size", 160.0),
        ("size", "160"),
        ("size", True),
        ("template", "ears"),
        ("template", []),
        ("crop_margin", -1),
        ("crop_margin", 1.5),
        ("crop_margin", 10**6),
        ("channel_order", "RGBA"),
        ("channel_order", None),
        ("standardization", "prewhiten"),
        ("mean", math.nan),
        ("mean", "127.5"),
        ("mean", None),
        pytest.param("mean", 10**400, id="mean-huge"),
        ("std", 0),
        ("std", -128),
        ("std", math.inf),
        ("std", 1e-320),
    ],
)
def test_invalid_specs_are_refused(field, value):
    with pytest.raises(ModelError, match=f"input spec: {field} cannot be "):
        InputSpec.from_dict(GOOD | {field: value})


def test_fields_missing_or_unknown():
    with pytest.raises(ModelError, match="the field 'template' is missing"):
        InputSpec.from_dict({"size": 160})
    with pytest.raises(ModelError, match="the field 'size' is missing"):
        InputSpec.from_dict({"template": "box"})
    with pytest.raises(ModelError, match=r"unknown field 'prewhiten'; it has .*standardization"):
        InputSpec.from_dict(GOOD | {"prewhiten": True})


@settings(max_examples=50, deadline=None)
@given(
    size=st.integers(16, 1024),
    template=st.sampled_from(["box", "arcface"]),
    crop_margin=st.integers(0, 1024),
    channel_order=st.sampled_from(["RGB", "BGR"]),
    standardization=st.sampled_from(["fixed", "per-image"]),
    mean=st.floats(-1e3, 1e3),
    std=st.floats(0.01, 1e3),
)
def test_to_a_dictionary_and_back(**fields):
    spec = InputSpec(**fields)
    assert spec.as_dict() == fields
    assert InputSpec.from_dict(spec.as_dict()) == spec


def test_presets():
    assert {
        name: (s.size, s.template, s.crop_margin, s.channel_order, s.standardization, s.mean, s.std)
        for name, s in INPUT_SPECS.items()
    } == {
        "facenet-2018": (160, "box", 32, "RGB", "fixed", 127.5, 128.0),
        "facenet-2017": (160, "box", 32, "RGB", "per-image", 127.5, 128.0),
        "arcface-112": (112, "arcface", 0, "RGB", "fixed", 127.5, 127.5),
        "sface": (112, "arcface", 0, "RGB", "fixed", 0.0, 1.0),
    }


def crops_of(n: int, size: int = 24) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, size, size, 3)).astype(np.uint8)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_fixed_standardization(order):
    crops = crops_of(3)
    found = InputSpec(24, "box", mean=100.5, std=57, channel_order=order).preprocess(crops)
    expected = (crops.astype(np.float64) - 100.5) / 57
    np.testing.assert_allclose(found, expected if order == "RGB" else expected[..., [2, 1, 0]], rtol=1e-6, atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_per_image_standardization_is_prewhitening(order):
    crops = np.concatenate([crops_of(3), np.full((1, 24, 24, 3), 77, np.uint8), crops_of(1) // 200])
    found = InputSpec(24, "box", standardization="per-image", channel_order=order).preprocess(crops)
    for crop, ours in zip(crops, found, strict=True):
        mean, std = np.mean(crop), np.std(crop)
        expected = (crop - mean) / np.maximum(std, 1.0 / np.sqrt(crop.size))
        np.testing.assert_allclose(ours, expected if order == "RGB" else expected[..., ::-1], rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float32
    assert not found[3].any()


def test_the_std_of_a_nearly_constant_crop_is_bounded() -> None:
    """One value of N = 1728 differs by 1: the std is √(N − 1)/N, a little below the bound 1/√N."""
    crops = np.full((1, 24, 24, 3), 77, np.uint8)
    crops[0, 5, 6, 1] = 78
    found = InputSpec(24, "box", standardization="per-image").preprocess(crops)
    assert found[0, 5, 6, 1] == pytest.approx((1 - 1 / 1728) * math.sqrt(1728), rel=1e-5)
    assert found[0, 0, 0, 0] == pytest.approx(-1 / 1728 * math.sqrt(1728), rel=1e-5)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize(
    "scale", [{"mean": 0.0, "std": 1.0}, {"mean": 127.5, "std": 128.0}, {"standardization": "per-image"}]
)
def test_channels_first_are_the_same_numbers(order, scale):
    spec, crops = InputSpec(24, "box", channel_order=order, **scale), crops_of(3)
    found = spec.preprocess(crops, channels_first=True)
    np.testing.assert_array_equal(found, spec.preprocess(crops).transpose(0, 3, 1, 2))
    assert found.flags.c_contiguous


@pytest.mark.parametrize("standardization", ["fixed", "per-image"])
def test_no_crops_are_no_numbers(standardization):
    spec = InputSpec(24, "box", standardization=standardization)
    assert spec.preprocess(crops_of(0)).shape == (0, 24, 24, 3)


def test_preprocessing_leaves_the_crops_alone():
    crops = crops_of(2)
    before = crops.copy()
    for spec in INPUT_SPECS.values():
        replace(spec, size=24).preprocess(crops)
    assert (crops == before).all()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((24, 24, 3), np.uint8),
        ((1, 24, 24), np.uint8),
        ((1, 24, 25, 3), np.uint8),
        ((1, 3, 24, 24), np.uint8),
        ((1, 24, 24, 4), np.uint8),
        ((1, 24, 24, 3), np.float32),
        ((0, 25, 24, 3), np.uint8),
    ],
)
def test_preprocessing_refuses_other_arrays(shape, dtype):
    message = re.escape(f"(N, 24, 24, 3), got {np.dtype(dtype)} of shape {shape}")
    with pytest.raises(ValueError, match=message):
        InputSpec(24, "box").preprocess(np.zeros(shape, dtype))


def test_check_passes_what_preprocess_takes() -> None:
    spec = InputSpec(24, "box")
    spec.check(crops_of(2))
    with pytest.raises(ValueError, match=r"\(N, 24, 24, 3\)"):
        spec.check(crops_of(2, size=25))


def test_a_spec_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        INPUT_SPECS["arcface-112"].size = 160


def test_bounds_are_valid_values() -> None:
    for fields in (
        {"size": 16},
        {"size": 1024},
        {"crop_margin": 0},
        {"crop_margin": 1024},
        {"std": 1e-6},
        {"mean": -1e6},
    ):
        InputSpec.from_dict(GOOD | fields)


def test_presets_are_described_by_name() -> None:
    assert describe_spec(INPUT_SPECS["facenet-2017"]).startswith("facenet-2017 (160 px box crops with margin 32, RGB, ")
    assert "127.5" not in describe_spec(INPUT_SPECS["facenet-2017"])  # mean and std do not matter for per-image scaling
    arcface = describe_spec(INPUT_SPECS["arcface-112"])
    assert arcface.startswith("arcface-112 (112 px")
    assert "box" not in arcface
    assert arcface.endswith("RGB, (x − 127.5)/127.5)")
    assert INPUT_SPECS["arcface-112"].size == ARCFACE_SIZE
    assert describe_spec(INPUT_SPECS["sface"]) == "sface (112 px crops by five points, RGB, (x − 0)/1)"


def test_no_two_presets_are_one_spec() -> None:
    """Otherwise one would be described by the other's name."""
    assert len(set(INPUT_SPECS.values())) == len(INPUT_SPECS)
    for name, spec in INPUT_SPECS.items():
        assert describe_spec(spec).startswith(f"{name} (")


def test_sface_is_given_the_crops_as_they_are() -> None:
    crops = crops_of(2, 112)
    np.testing.assert_array_equal(INPUT_SPECS["sface"].preprocess(crops), crops.astype(np.float32))


def test_a_spec_that_is_no_preset_is_described_by_its_fields() -> None:
    described = describe_spec(InputSpec(160, "box", crop_margin=44, channel_order="BGR", mean=0, std=0.25))
    assert described.endswith("(160 px box crops with margin 44, BGR, (x − 0)/0.25)")
    assert not any(name in described for name in INPUT_SPECS)
