from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from facespace.server import buckets as buckets_module
from facespace.server.buckets import MemoryBuckets, SharedBuckets
from facespace.server.rates import Rates

pytestmark = pytest.mark.skipif(os.name != "posix", reason="several workers need flock")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedBuckets]:
    opened = SharedBuckets(tmp_path / "rates")
    yield opened
    opened.close()


@pytest.fixture(params=["memory", "shared"])
def buckets(request: pytest.FixtureRequest) -> MemoryBuckets | SharedBuckets:
    return MemoryBuckets() if request.param == "memory" else request.getfixturevalue("shared")


def test_what_is_written_is_read(buckets: MemoryBuckets | SharedBuckets):
    with buckets.lock:
        assert buckets.read("ada") is None
        buckets.write("ada", 1.5, 10.0)
        buckets.write("ben", 2.5, 11.0)
        buckets.write("ada", 0.5, 12.0)
        assert (buckets.read("ada"), buckets.read("ben"), buckets.read("cleo")) == ((0.5, 12.0), (2.5, 11.0), None)


def test_the_caller_that_was_seen_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(buckets_module, "MAX_BUCKETS", 8)
    for held in (MemoryBuckets(), SharedBuckets(tmp_path / "rates")):
        for k in range(10):
            held.write(f"c{k}", 1.0, 100.0 + k)
        assert [k for k in range(10) if held.read(f"c{k}")] == list(range(2, 10))
    held.close()


def test_many_callers_fit(shared: SharedBuckets):
    for k in range(3000):
        shared.write(f"c{k}", float(k), 1.0 + k)
    there = [shared.read(f"c{k}") for k in range(3000)]
    assert sum(one is not None for one in there) > 2950
    assert all(one is None or one[0] == k for k, one in enumerate(there))


def test_the_file_is_private_and_processes_share_it(tmp_path: Path):
    path = tmp_path / "rates"
    code = (
        "import sys\nfrom pathlib import Path\nfrom facespace.server.buckets import SharedBuckets\n"
        "from facespace.server.rates import Rates\n"
        "rates = Rates(1e-6, burst=400, buckets=SharedBuckets(Path(sys.argv[1])))\n"
        "print(sum(rates.take('ada') == 0 for _ in range(300)))\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sum(int(one.communicate()[0]) for one in both) == 400
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\xff" * (8192 * 32), b"a" * (8192 * 64)])
def test_a_damaged_file_still_limits(tmp_path: Path, content: bytes):
    path = tmp_path / "rates"
    path.write_bytes(content)
    shared = SharedBuckets(path)
    rates = Rates(1.0, burst=2, buckets=shared, clock=lambda: 5.0)
    assert [rates.take("ada") for _ in range(3)] == [0, 0, 1]
    shared.close()


def test_times_from_before_a_restart_of_the_machine_are_harmless(shared: SharedBuckets):
    shared.write("ada", 0.0, 1e9)
    now = [10.0]
    rates = Rates(1.0, burst=2, buckets=shared, clock=lambda: now[0])
    assert rates.take("ada") == 1
    now[0] = 11.0
    assert rates.take("ada") == 0
