"""The learning rate of every step: tables as the programs of 2018 read them, shapes, warm-up, invalid files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from facespace.errors import DatasetError
from facespace.training.schedules import KINDS, Schedule, read_table

HEADER = "# Learning rate schedule\n# Maps an epoch number to a learning rate, lines ascend\n\n"
SHIPPED = {
    "casia": ((0, 0.05), (60, 0.005), (80, 0.0005), (91, -1.0)),
    "vggface2": ((0, 0.05), (100, 0.005), (200, 0.0005), (276, -1.0)),
    "msceleb": ((0, 0.1), (150, 0.01), (180, 0.001), (251, 0.0001)),
    "retrain_triplet": ((0, 0.1), (300, 0.01), (400, 0.001), (1000, 0.0001)),
    "tutorial": ((0, 0.1), (65, 0.01), (77, 0.001), (1000, 0.0001)),
}


def rate_of_2018(text: str, epoch: int) -> float | None:
    """Return the rate by the program of 2018, line by line; None if its table has no rate."""
    rate = None
    for line in text.split("\n"):
        line = line.split("#")[0].strip()
        if line:
            first, written = line.split(":")
            if int(first) > epoch:
                return rate
            rate = -1.0 if written.strip() == "-" else float(written)
    return None  # after the last line, which is why files had a sentinel


def of(**options: Any) -> Schedule:
    return Schedule(**{"epoch_size": 10, "n_epochs": 4, "learning_rate": 0.8, **options})


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("stop", ["-1", "-"])
def test_tables_of_2018(tmp_path: Path, name: str, stop: str) -> None:
    lines = [f"{epoch}: {stop if rate < 0 else rate}  # from here on" for epoch, rate in SHIPPED[name]]
    file = tmp_path / "learning_rate_schedule.txt"
    file.write_text(HEADER + "\n".join(lines) + "\n")
    table = read_table(file)
    assert table == SHIPPED[name] == read_table(str(file))
    schedule = Schedule(epoch_size=3, n_epochs=1200, learning_rate=7.0, table=table)
    for epoch in range(1, 1100):
        rate = rate_of_2018(file.read_text(), epoch)
        expected = table[-1][1] if rate is None else rate
        assert [schedule.at(step) for step in range(3 * (epoch - 1), 3 * epoch)] == [expected] * 3


@pytest.mark.parametrize(
    "text",
    [
        "0: 0.05, 60: -",
        " 0 :5e-2 ,\t60: -1 ",
        "0: 0.05,60:-,",
        "0: 0.05 # first, or so: the start\n60: -",
        "#, 1: 2,\n0: 0.05\r\n\r\n60:-",
    ],
)
def test_ways_to_write_a_table(tmp_path: Path, text: str) -> None:
    assert read_table(text) == ((0, 0.05), (60, -1.0))
    for before in (b"", b"\xef\xbb\xbf"):  # the mark that editors on Windows put before a text
        (tmp_path / "schedule.txt").write_bytes(before + text.encode())
        assert read_table(tmp_path / "schedule.txt") == ((0, 0.05), (60, -1.0))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (":", "schedule: expected `epoch: rate`, such as `60: 0.005`, got ':'"),
        ("1: 0.1, 2", "got '2'"),
        ("1.5: 0.1", "got '1.5: 0.1'"),
        ("1: --", "got '1: --'"),
        ("1: 0.1: 3", "got '1: 0.1: 3'"),
        ("1: nan", "the rate must be finite, got '1: nan'"),
        ("1: 1e999", "the rate must be finite"),
        ("# 1: 0.1", "must have at least one line `epoch: rate`, got none"),
        ("9" * 5000 + ": 1", "got '" + "9" * 60 + "'"),
    ],
)
def test_invalid_tables(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_table(text)
    assert said in str(caught.value)


def test_errors_name_the_file_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "two\nlines.txt"
    file.write_text("no table")
    with pytest.raises(ValueError, match=r"two\\nlines\.txt: expected `epoch: rate`, .* got 'no table'") as caught:
        read_table(file)
    assert len(str(caught.value).splitlines()) == 1
    for nothing, said in ((tmp_path / "missing.txt", "no such file"), (tmp_path, "not a regular file")):
        with pytest.raises(DatasetError, match=said):
            read_table(nothing)
    file.write_bytes(b"0: 1\n" * 200_001)
    with pytest.raises(DatasetError, match="must have at most 1,000,000 bytes, got 1,000,005"):
        read_table(file)


def test_a_file_may_have_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("1: 0.5").write_text("1: 0.25")
    assert read_table("1: 0.5") == ((1, 0.25),)


def _is_table(table: Any) -> bool:
    return bool(table) and all(type(epoch) is int and math.isfinite(rate) for epoch, rate in table)


def try_table(source: str) -> None:
    try:
        table = read_table(source)
        assert _is_table(table)
        assert Schedule(epoch_size=2, n_epochs=3, table=table).at(5) == [r for e, r in table if e <= 3][-1]
    except (ValueError, DatasetError) as error:
        assert len(str(error).splitlines()) == 1
        assert len(str(error)) < 10_000


LINES = st.lists(st.text("0123456789:-.,# e\n\t_infa", max_size=12) | st.text(max_size=8), max_size=6).map("\n".join)


@settings(max_examples=150, deadline=None)
@given(text=LINES)
def test_any_text_is_a_table_or_one_error(text: str) -> None:
    try_table(":" + text)
    try_table("1: 0.5\n" + text)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=60) | LINES.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_file_is_a_table_or_one_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed schedule.txt"
    file.write_bytes(data)
    try_table(str(file))


@settings(max_examples=50, deadline=None)
@given(name=st.text(max_size=20))
def test_any_name_of_a_file_is_one_error(name: str) -> None:
    try_table("no folder is called so/" + name)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind: Any) -> None:
    schedule = of(kind=kind)
    shape = {
        "step": lambda t: 1.0,
        "cosine": lambda t: math.cos(math.pi * t / 2) ** 2,
        "polynomial": lambda t: 1 - 2 * t + t * t,
    }[kind]
    assert [schedule.at(step) for step in range(40)] == pytest.approx([0.8 * shape(step / 40) for step in range(40)])
    ends = {"step": 0.8, "cosine": 0.0, "polynomial": 0.0}[kind]
    assert schedule.at(0) == 0.8
    assert schedule.at(39) > 0  # every step of a run learns
    assert [schedule.at(step) for step in (40, 1000)] == [ends, ends]


@pytest.mark.parametrize("options", [{}, {"kind": "cosine"}, {"table": ((1, 0.5), (3, 0.125))}])
def test_staircase_decay(options: dict[str, Any]) -> None:
    plain, decayed = of(**options), of(**options, decay_epochs=2, decay_factor=0.5)
    for step in range(100):
        assert decayed.at(step) == pytest.approx(plain.at(step) * 0.5 ** (step // 20), rel=1e-15, abs=0)


@pytest.mark.parametrize("options", [{}, {"kind": "polynomial"}, {"table": ((0, 0.5), (2, 0.125))}])
@pytest.mark.parametrize("epochs", [0.5, 1.5, 2])
def test_warm_up_is_a_straight_line(options: dict[str, Any], epochs: float) -> None:
    plain, warmed = of(**options), of(**options, warmup_epochs=epochs)
    n_steps = int(10 * epochs)
    for step in range(40):
        share = (step + 1) / n_steps if step < n_steps else 1
        assert warmed.at(step) == pytest.approx(plain.at(step) * share, rel=1e-12)
    assert warmed.at(0) > 0


def test_a_stop_is_a_stop_in_warm_up_and_decay() -> None:
    schedule = of(table=((0, 0.1), (2, -1.0), (3, 0.1)), warmup_epochs=3, decay_epochs=1, decay_factor=0.5)
    assert [schedule.at(step) > 0 for step in (9, 10, 19, 20)] == [True, False, False, True]
    assert schedule.at(10) == -1.0
    assert of(table=((0, 0.0),)).at(0) == 0


def test_a_table_overrides_rate_and_kind() -> None:
    assert of(table=((1, 0.3),), kind="cosine").at(35) == 0.3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "cosin"}, "step, cosine, polynomial, got 'cosin'"),
        ({"epoch_size": 0}, "at least 1, got 0 and 100"),
        ({"decay_epochs": 0}, "at least 1, got 10 and 0"),
        ({"learning_rate": math.inf}, "learning_rate must be a finite number"),
        ({"learning_rate": -0.1}, "got -0.1"),
        ({"decay_factor": 1.5}, "decay_factor must be a finite number from 0 to 1, got 1.5"),
        ({"warmup_epochs": math.inf}, "warmup_epochs must be a finite number"),
        ({"warmup_epochs": math.nan}, "got nan"),
        ({"table": ((0, 1.0), (5, 0.5), (5, 0.1))}, "got 5 after 5"),
        ({"table": ((0, 1.0), (5, 0.5), (3, 0.1))}, "got 3 after 5"),
        ({"table": ((2, 1.0),)}, "first line must be for epoch 0 or 1, got epoch 2"),
    ],
)
def test_invalid_schedules(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        of(**options)
