"""Options that several commands share agree with the library's types."""

from __future__ import annotations

from typing import get_args

from facespace.cli import align
from facespace.cli.shared import options
from facespace.runtime import devices


def test_devices_are_those_of_the_library() -> None:
    assert [device.value for device in options.Device] == list(get_args(devices.Device))
    assert {device.value for device in align.Device} < set(get_args(devices.Device))
