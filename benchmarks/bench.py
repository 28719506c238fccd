"""This project and its peers compared on the same cores: a table, and benchmarks/results/bench.json.

Each peer is one file in `peers/` and runs in its own environment, which this command creates the first time in BENCH_HOME (by
default `.bench` in the clone). All processes stay warm while rounds alternate: ours, theirs, ours, theirs. Values are
medians with the lowest and highest round; a ratio is that of the medians. The peers' answers on pairs and on the album's photos are
stored in BENCH_HOME too and reused while their versions are the same. Photos are decoded before the clock of
detection starts. Peers run with their own defaults. A dash means that the peer does not support the row.

A peer that cannot be installed, stops or gives invalid answers is left out, the others are finished, and the exit code is 1.
Peers whose weights are not in a package take part if PEER_MODELS=DIR contains them; see their files.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from side_by_side import machine, photos, recognition, report, starting
from side_by_side.environments import PEERS, CannotInstall, Environment, Peer, all_peers, bench_home
from side_by_side.rounds import Failures, Party, PeerError, Row, take_turns

HERE = Path(__file__).parent
OURS = "facespace"
GROUPS = ("start", "detection", "embedding", "album", "accuracy", "training", "search")
PEOPLE = (10_000, 100_000, 1_000_000)


class Run(NamedTuple):
    """What the rows share."""

    shared: Path
    home: Path
    quick: bool
    rounds: int
    seconds: float
    parties: list[Party]
    advice: dict[str, str]
    kept: recognition.Kept
    failures: Failures

    def turns(
        self, group: str, name: str, unit: str, better: str, ability: str, do: str, n: int, **values: object
    ) -> Row:
        print(f"{group}: {name}", flush=True)
        return take_turns(
            Row(group, name, unit, better), self.parties, ability, do, values, n, self.failures,
            rounds=self.rounds, seconds=self.seconds,
        )  # fmt: skip


def detection_rows(run: Run) -> list[Row]:
    folder = run.home / "photos"
    tasks: list[tuple[str, photos.Photos, bool]] = []
    if run.quick:
        sizes: list[tuple[str, int, int]] = [("VGA", 6, 2)]
    else:
        sizes = [(size, n, k) for size, k in (("VGA", 4), ("1080p", 2), ("12 MP", 1)) for n in (1, 6, 50)]
    tasks.append(("250 px, 1 face", photos.small(run.shared, 8), False))
    for size, n, n_photos in sizes:
        label = f"{size}, {n} face{'s' * (n > 1)}"
        tasks.append((label, photos.composed(run.shared, folder, size, n, n_photos), False))
    many = (("VGA", 2),) if run.quick else (("VGA", 16), ("1080p", 4), ("12 MP", 2))
    tasks.append(
        (f"250 px, {8 if run.quick else 32} photos a call", photos.small(run.shared, 8 if run.quick else 32), True)
    )
    for size, n_photos in many:
        found = photos.composed(run.shared, folder, size, 6, n_photos)
        tasks.append((f"{size}, 6 faces, {n_photos} photos a call", found, True))
    rows = []
    for label, given, is_many in tasks:
        row = run.turns(
            "detection", label, "photos/s", "higher", "detect_many" if is_many else "detect", "detect",
            len(given.paths), paths=given.paths, many=is_many,
        )  # fmt: skip
        for cell in row.cells.values():
            if "faces" in cell.facts:
                cell.facts["faces"] = f"{cell.facts['faces']} of {given.n_faces}"
        rows.append(row)
    return rows


def embedding_rows(run: Run) -> list[Row]:
    return [run.turns("embedding", f"batch {n}", "faces/s", "higher", "embed", "embed", n, batch=n) for n in (1, 8, 64)]


def album_rows(run: Run) -> list[Row]:
    album = recognition.read_album(run.shared, 40 if run.quick else 6)
    row = Row(
        "album", f"{len(album.probes)} photos, files to names among {len(album.enrolled)} people", "photos/s", "higher"
    )
    print(f"album: {row.name}", flush=True)
    recognition.enroll(run.parties, album, row, run.failures)
    paths = [path for path, _ in album.probes]
    take_turns(
        row, run.parties, "identify", "identify", {"paths": paths}, len(paths), run.failures,
        rounds=run.rounds, seconds=run.seconds,
    )  # fmt: skip
    return [row]


def accuracy_rows(run: Run) -> list[Row]:
    from lfw import pairs

    print("recognition: the album, then LFW view 1; two peers at a time", flush=True)
    view = run.shared / "data/lfw_view1"

    def listed(name: str, every: int) -> list[tuple[str, str, bool]]:
        def path(photo: str) -> str:
            return str(view / "images" / photo.rpartition("_")[0] / f"{photo}.jpg")

        return [(path(a), path(b), same) for a, b, same in pairs(view / name)[::every]]

    rows = recognition.names(
        run.parties, recognition.read_album(run.shared, 40 if run.quick else 1), run.kept, run.failures
    )
    train, test = (
        listed("pairsDevTrain.txt", 200 if run.quick else 4),
        listed("pairsDevTest.txt", 100 if run.quick else 1),
    )
    return rows + recognition.lfw(run.parties, train, test, run.advice, run.kept, run.failures)


def training_rows(run: Run) -> list[Row]:
    name = "InceptionResnetV1, 160 px, batch 32, float32"
    return [run.turns("training", name, "s a step", "lower", "train_step", "train", 1, batch=4 if run.quick else 32)]


def search_rows(run: Run) -> list[Row]:
    """Galleries drawn after real faces, 128 numbers each as the default model gives; probes are real faces."""
    import numpy as np

    from gallery_search import drawn, exact, real_faces

    real = real_faces(run.shared, "sface", 600, run.home)
    probes = np.ascontiguousarray(real.probes[:64], np.float32)
    rows = []
    for people in PEOPLE[:1] if run.quick else PEOPLE:
        vectors = np.concatenate(list(drawn(real.others, people)))
        nearest = exact(vectors, probes)[:, 0].tolist()
        with tempfile.TemporaryDirectory(dir=run.home) as folder:
            path = Path(folder, "vectors.npy")
            np.save(path, vectors)
            del vectors
            indexing = Row("search", f"{people:,} people: index built", "s", "lower")
            take_turns(
                indexing, run.parties, "search", "index", {"vectors": str(path)}, 1, run.failures,
                rounds=1, seconds=run.seconds,
            )  # fmt: skip
            rows.append(indexing)
            for n in (64, 1):  # many first: some make, at early probes, what later ones are found by
                some = Path(folder, f"probes-{n}.npy")
                np.save(some, probes[:n])
                label = f"{people:,} people, {n} probe{'s' * (n > 1)} a call"
                row = run.turns("search", label, "s a probe", "lower", "search", "search", n, probes=str(some))
                for cell in row.cells.values():
                    if "found" in cell.facts:
                        right = sum(a == b for a, b in zip(cell.facts["found"], nearest, strict=False))
                        cell.facts["found"] = f"{right} of {n}"
                rows.append(row)
    return rows


ROWS: dict[str, Callable[[Run], list[Row]]] = {
    "detection": detection_rows,
    "embedding": embedding_rows,
    "album": album_rows,
    "accuracy": accuracy_rows,
    "training": training_rows,
    "search": search_rows,
}


def installed(
    peers: Sequence[Peer], home: Path, failures: Failures, *, ours_too: bool
) -> tuple[dict[str, Environment], dict[str, Any]]:
    """The environments that could be made, and of each the seconds and bytes of its installation.

    This project runs where this command runs: its environment is made for those two figures alone, with `ours_too`.
    """
    environments: dict[str, Environment] = {}
    made: dict[str, Any] = {}
    for peer in peers:
        environment = Environment(peer, home)
        if peer.project and not ours_too:
            environments[peer.name] = environment
            continue
        print(f"environment of {peer.title}", flush=True)
        try:
            made[peer.name] = environment.install()
        except (CannotInstall, OSError) as error:
            failures.note(f"{peer.name} cannot be installed: {error}")
            continue
        environments[peer.name] = environment
    return environments, made


def started(environments: dict[str, Environment], failures: Failures, running: ExitStack) -> list[Party]:
    """A warm process of each peer; peers that do not answer are left out."""
    parties = []
    for name, environment in environments.items():
        party = Party(name, running.enter_context(environment.start()))
        try:
            party.begin()
        except (PeerError, KeyError, TypeError) as error:
            failures.note(f"{name} does not start: {error}")
            continue
        parties.append(party)
    return parties


def main(arguments: Sequence[str] | None = None, folder: Path = PEERS) -> int:
    described = all_peers(folder)
    without_files = [name for name, peer in described.items() if not peer.models or os.environ.get("PEER_MODELS")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder that contains data/")
    parser.add_argument(
        "--peers", default=",".join(without_files), help=f"comma-separated peers: {', '.join(described)}"
    )
    parser.add_argument("--rows", default=",".join(GROUPS), help=f"comma-separated rows: {', '.join(GROUPS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="seconds after which a peer starts no further round of a row"
    )
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="quick trial: few photos, one round")
    parser.add_argument("--output", type=Path, default=HERE / "results/bench.json")
    args = parser.parse_args(arguments)
    names, groups = args.peers.split(","), args.rows.split(",")
    if wrong := [one for one in names if one not in described] + [one for one in groups if one not in GROUPS]:
        parser.error(f"unknown: {', '.join(wrong)}")
    peers = [peer for name, peer in described.items() if name in {*names, OURS}]
    home = bench_home()
    machine.hold_to(args.cores)
    failures, rows, before = Failures(), [], machine.load()
    shared = args.shared.resolve()
    rounds = 1 if args.quick else args.rounds
    begun = datetime.datetime.now(datetime.timezone.utc)

    environments, made = installed(peers, home, failures, ours_too="start" in groups)
    if "start" in groups:
        print("installing and starting: fresh processes", flush=True)
        counted = {peer.name for peer in peers if peer.dependencies or peer.alone or peer.npm}
        rows += starting.installation({name: one for name, one in made.items() if name in counted})
        small = photos.small(shared, 8).paths[0]
        large = photos.composed(shared, home / "photos", "12 MP", 6, 1).paths[0]
        rows += starting.fresh_processes(environments, small, large, failures, rounds=min(rounds, 3))
    with ExitStack() as running:
        parties = started(environments, failures, running)
        advice = {peer.name: peer.advice for peer in peers}
        kept = recognition.Kept(home / "kept", {peer.name: peer.path for peer in peers if not peer.project})
        run = Run(shared, home, args.quick, rounds, args.seconds, parties, advice, kept, failures)
        for group in groups:
            if group in ROWS:
                rows += ROWS[group](run)
    facts = {
        "date": begun.isoformat(timespec="seconds"),
        "seconds": round((datetime.datetime.now(datetime.timezone.utc) - begun).total_seconds()),
        "machine": machine.described(),
        "load": {"before": before, "after": machine.load()},
        "settings": {"rounds": rounds, "seconds": args.seconds, "quick": args.quick, "rows": groups},
    }
    about = {party.name: party.about for party in parties}
    told_peers = {
        peer.name: {
            "title": peer.title,
            "own": peer.project,
            "advice": peer.advice,
            "versions": about.get(peer.name, {}).get("versions", {}),
            "drawn_weights": bool({"embed", "represent"} & set(about.get(peer.name, {}).get("can", ())))
            and not about[peer.name]["recognises"],
        }
        for peer in peers
    }
    told = report.as_json(rows, OURS, told_peers, facts, failures)
    report.write(told, args.output)
    print(report.table(told))
    print(
        f"\n{told['machine']['processor']} ({', '.join(machine.features()) or 'features unknown'}), {machine.cores()} cores"
    )
    print(f"load {before} before, {machine.load()} after; {facts['seconds']} s; {args.output}")
    for peer in told_peers.values():
        print(
            f"{peer['title']}: {json.dumps(peer['versions'])}{', weights of its embedder drawn' * peer['drawn_weights']}"
        )
    for line in failures:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
