"""A simulation of 10⁸ photos, from files to people, on 1, 10 and 100 machines: the time, and what limits it.

Input is the result of `stage_times.py` (processor seconds of each stage on one kind of machine) and the limits of a cluster,
which are options: cores and network of a machine, bandwidth, requests and listing of the store. Four phases:

photos   Events in order of time. The store lists photos; cores take shards of --shard photos as they are listed; a
         core reads one shard ahead while it computes another (decode, detect, align, embed), and writes its rows. Store
         and networks serve one transfer after the other at their rate. The work of shards varies log-normally
         with --spread. The photos of a shard are read one by one, with one request each.
pairs    Similar pairs of faces, shard by shard: the cores of all machines divide the work (as in `cluster --ray`), which
         grows as N^1.5 because of the buckets of `cluster`; each two shards are compared once, so one of them is read.
merge    Groups from all pairs, in one process, in time linear in N.

`--write` writes the table and the picture into docs/scale.md. `--check` simulates one machine with as many cores as were measured, on
the photos of the run that `stage_times.py` measured, and prints how much longer or shorter the real command took. A figure
from here is an estimate, not a measurement.
"""

from __future__ import annotations

import argparse
import heapq
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).parents[1] / "docs/scale.md"
PICTURE = PAGE.parent / "images/scale.svg"
BEGIN, END = "<!-- scale_simulation.py writes from here -->", "<!-- to here -->"
COMPUTED = ("read", "decode", "detect", "align", "embed", "write")
EXPONENTS = {"pairs": 1.5, "merge": 1.0}  # of the number of faces, as the methods have it
VECTOR_SHARD = 128 << 20  # bytes of vectors that are compared at once


@dataclass
class Server:
    """Serves one request after the other at `rate` a second; `busy` are the seconds it has worked."""

    rate: float
    free: float = 0.0
    busy: float = 0.0

    def serve(self, now: float, amount: float) -> float:
        """When a request of that amount, made now, is done."""
        seconds = amount / self.rate
        self.busy += seconds
        self.free = max(self.free, now) + seconds
        return self.free


@dataclass
class Cluster:
    """Machines and the store; rates in units a second."""

    machines: int
    cores: int
    network: float  # bytes a second of each machine
    store: float  # bytes a second of all transfers together
    requests: float  # of the store, reads and writes together
    listed: float  # names a second


@dataclass
class Phase:
    """Hours of a phase, what limits it, and the share of the time that each resource works."""

    name: str
    seconds: float
    limit: str
    used: dict[str, float] = field(default_factory=dict)


def core_seconds(times: dict[str, Any]) -> dict[str, float]:
    """Processor seconds of each stage for a photo with its faces."""
    faces = times["photos"]["faces_per_photo"]
    return {
        name: stage["seconds"] * (faces if stage["of"] == "face" else 1)
        for name, stage in times["core_seconds"].items()
        if name in COMPUTED
    }


def photos_phase(
    times: dict[str, Any], cluster: Cluster, *, n_photos: int, shard: int, spread: float, seed: int = 0
) -> Phase:
    """Read, decode, detect, align, embed and write all photos."""
    stages = core_seconds(times)
    work = sum(stages.values())
    read = times["photos"]["bytes_per_photo"]
    written = times["photos"]["faces_per_photo"] * times["bytes_per_face"]
    sizes = np.full(-(-n_photos // shard), shard)
    sizes[-1] -= shard * len(sizes) - n_photos
    variation = np.random.default_rng(seed).lognormal(-(spread**2) / 2, spread, len(sizes))
    store, requests = Server(cluster.store), Server(cluster.requests)
    networks = [Server(cluster.network) for _ in range(cluster.machines)]
    busy, end, taken = 0.0, 0.0, 0

    def next_shard(now: float, machine: int) -> tuple[float, int] | None:
        """When the next shard is in a machine's memory, and its number; None when all are taken."""
        nonlocal taken
        if taken == len(sizes):
            return None
        number, taken = taken, taken + 1
        n = int(sizes[number])
        begin = max(now, (number + 1) * shard / cluster.listed)
        done = max(requests.serve(begin, n), store.serve(begin, n * read), networks[machine].serve(begin, n * read))
        return done, number

    # (time, order of equal times, is it the end of a shard, machine, shard, when the one after it is there)
    events: list[tuple[float, int, bool, int, int, tuple[float, int] | None]] = []
    order = 0
    for core in range(cluster.machines * cluster.cores):
        machine = core % cluster.machines
        if (first := next_shard(0.0, machine)) is not None:
            events.append((first[0], core, False, machine, first[1], None))
            order = core + 1
    heapq.heapify(events)
    while events:
        now, _, is_end, machine, number, ahead = heapq.heappop(events)
        order += 1
        n = int(sizes[number])
        if not is_end:
            seconds = n * work * float(variation[number])
            busy += seconds
            heapq.heappush(events, (now + seconds, order, True, machine, number, next_shard(now, machine)))
            continue
        wrote = max(requests.serve(now, 1), store.serve(now, n * written), networks[machine].serve(now, n * written))
        end = max(end, wrote)
        if ahead is not None:
            heapq.heappush(events, (max(now, ahead[0]), order, False, machine, ahead[1], None))
    used = {
        "cores": busy / (end * cluster.machines * cluster.cores),
        "network": max(one.busy for one in networks) / end,
        "store bandwidth": store.busy / end,
        "store requests": requests.busy / end,
        "listing": n_photos / cluster.listed / end,
    }
    limit = max(used, key=lambda name: used[name])
    if limit == "cores":
        largest = max(stages, key=lambda name: stages[name])
        limit = f"cores ({largest} {stages[largest] / work:.0%})"
    return Phase("photos", end, limit, used)


def seconds_a_face(stage: dict[str, float], name: str, n_faces: float) -> float:
    """Of clustering N faces, from what was measured on fewer."""
    return stage["seconds"] * (n_faces / stage["at_faces"]) ** (EXPONENTS[name] - 1)


def pairs_phase(times: dict[str, Any], cluster: Cluster, *, n_faces: float, vector_bytes: float) -> Phase:
    """Find similar pairs: work that all cores share, and reading the shards of vectors that it takes."""
    n_shards = max(1.0, n_faces * vector_bytes / VECTOR_SHARD)
    read = VECTOR_SHARD * n_shards * (n_shards + 1) / 2
    seconds = {
        "cores": n_faces * seconds_a_face(times["core_seconds"]["pairs"], "pairs", n_faces) / (cluster.machines * cluster.cores),
        "network": read / (cluster.machines * cluster.network),
        "store bandwidth": read / cluster.store,
    }  # fmt: skip
    limit = max(seconds, key=lambda name: seconds[name])
    total = seconds[limit]
    return Phase("pairs", total, limit, {name: value / total for name, value in seconds.items()})


def merge_phase(times: dict[str, Any], *, n_faces: float) -> Phase:
    """Make groups of all pairs, in one process."""
    seconds = n_faces * seconds_a_face(times["core_seconds"]["merge"], "merge", n_faces)
    return Phase("merge", seconds, "one process", {"cores": 1.0})


def check(times: dict[str, Any], *, spread: float) -> None:
    """One machine and the run that was measured, the start of the command left out."""
    run, cores = times["run"], times["machine"]["cores"]
    local = Cluster(1, cores, network=1e12, store=1e12, requests=1e12, listed=1e12)
    n_photos = int(run["photos"]) - 1
    simulated = photos_phase(times, local, n_photos=n_photos, shard=16, spread=spread).seconds
    real, real_cpu = run["wall"] - run["start_wall"], run["cpu"] - run["start_cpu"]
    cpu = n_photos * sum(core_seconds(times).values())
    print(f"check: {n_photos} photos, 1 machine of {cores} cores, start of the command left out")
    print(f"  simulated {simulated:.1f} s, {cpu:.1f} core-seconds; real {real:.1f} s, {real_cpu:.1f} core-seconds")
    print(f"  real against simulated: {real / simulated - 1:+.1%} of time, {real_cpu / cpu - 1:+.1%} of core-seconds")


def draw(all_phases: dict[int, list[Phase]], n_photos: float) -> None:
    """Hours of each phase on so many machines, as a picture."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "scale", "font.size": 11, "svg.fonttype": "none"}
    figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
    colors = {"photos": "#3b6ea8", "pairs": "#e0953b", "merge": "#8c5aa3"}
    for row, phases in enumerate(all_phases.values()):
        left = 0.0
        for phase in phases:
            hours = phase.seconds / 3600
            axes.barh(row, hours, left=left, color=colors[phase.name], label=phase.name if row == 0 else None)
            left += hours
        axes.annotate(f"{left:.3g} h", (left, row), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(all_phases)), [f"{n} machine{'s' * (n > 1)}" for n in all_phases])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f"hours for {power_of_ten(n_photos)} photos, from files to people (simulated)")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})
    print(f"{PICTURE.name}: written")


def write_table(all_phases: dict[int, list[Phase]], times: dict[str, Any], args: argparse.Namespace) -> None:
    """The part of docs/scale.md between the two marks: what was measured, and the hours of each phase."""
    stages = core_seconds(times)
    faces = times["photos"]["faces_per_photo"]
    lines = [
        f"Measured on {times['machine']['processor'].split(' (')[0]}, photos of {times['photos']['bytes_per_photo'] / 1e3:.0f} kB with "
        f"{faces:.2f} faces:",
        "",
        "| stage | core-seconds | core-hours a million faces |",
        "|---|---|---|",
    ]
    rows = [(f"{name}, a photo", seconds, 1e6 / faces * seconds / 3600) for name, seconds in stages.items()]
    rows.append(("files to embeddings, a photo", sum(stages.values()), 1e6 / faces * sum(stages.values()) / 3600))
    for name in EXPONENTS:
        each = seconds_a_face(times["core_seconds"][name], name, 1e6)
        rows.append((f"{name}, a face among a million", each, 1e6 * each / 3600))
    lines += [f"| {name} | {seconds:.2g} | {hours:.2g} |" for name, seconds, hours in rows]
    lines += [
        "",
        f"Simulated, {power_of_ten(args.photos)} photos; a machine has {args.cores} such cores and {args.network:g} Gbit/s, the store "
        f"{args.store:g} GB/s, {args.requests:,.0f} requests and {args.listed:,.0f} listed names a second:",
        "",
        "| machines | photos: hours, limit | pairs: hours, limit | merge: hours, limit | all |",
        "|---|---|---|---|---|",
    ]
    for machines, phases in all_phases.items():
        cells = [f"{phase.seconds / 3600:.3g}, {phase.limit}" for phase in phases]
        total = sum(phase.seconds for phase in phases) / 3600
        lines.append(f"| {machines} | {' | '.join(cells)} | {total:.3g} h |")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + after, encoding="utf-8")
    print(f"{PAGE.name}: written")


def power_of_ten(n: float) -> str:
    """A number as 10ⁿ where it is one.

    >>> power_of_ten(1e8), power_of_ten(3e7)
    ('10⁸', '3e+07')
    """
    exponent = round(np.log10(n))
    return (
        "10" + str(exponent).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")) if n == 10**exponent else f"{n:.0e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=Path, default=RESULTS / "stage_times.json")
    parser.add_argument("--photos", type=float, default=1e8)
    parser.add_argument("--machines", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument(
        "--cores", type=int, default=32, help="cores of a machine, each as fast as one of the measured machine"
    )
    parser.add_argument("--network", type=float, default=25, help="network bandwidth of a machine in Gbit/s")
    parser.add_argument("--store", type=float, default=10, help="bandwidth of the store in GB/s")
    parser.add_argument("--requests", type=float, default=40_000, help="requests per second that the store answers")
    parser.add_argument("--listed", type=float, default=100_000, help="names per second that the store lists")
    parser.add_argument("--photo-bytes", type=float, help="mean size of a photo (default: that of the measured photos)")
    parser.add_argument("--shard", type=int, default=1000)
    parser.add_argument("--spread", type=float, default=0.2)
    parser.add_argument("--price", type=float, help="price of a core-hour; prints the cost of a million faces")
    parser.add_argument("--check", action="store_true", help="only compare with the real command")
    parser.add_argument("--write", action="store_true", help="write the table and the picture into docs/scale.md")
    args = parser.parse_args()
    times = json.loads(args.times.read_text(encoding="utf-8"))
    if args.photo_bytes:
        times["photos"]["bytes_per_photo"] = args.photo_bytes
    print(f"stages measured on {times['machine']['processor']}, {times['machine']['cores']} cores")
    check(times, spread=args.spread)
    if args.check:
        return
    n_faces = args.photos * times["photos"]["faces_per_photo"]
    stages = core_seconds(times)
    print("\ncore-seconds a photo: " + ", ".join(f"{name} {seconds:.2g}" for name, seconds in stages.items()))
    for name, exponent in EXPONENTS.items():
        stage = times["core_seconds"][name]
        print(
            f"{name}: {1e6 * stage['seconds']:.0f} µs a face at {stage['at_faces']} faces, measured to grow as "
            f"N^{stage['exponent']:.2f}; taken for N^{exponent}: {1e6 * seconds_a_face(stage, name, n_faces):.0f} µs at {n_faces:.0e}"
        )
    million = 1e6 / times["photos"]["faces_per_photo"] * sum(stages.values()) / 3600
    print(f"a million faces: {million:.1f} core-hours from files to embeddings")
    if args.price is not None:
        print(f"  at {args.price} a core-hour: {million * args.price:.2f}")
    print(
        f"\n{args.photos:.0e} photos of {times['photos']['bytes_per_photo'] / 1e3:.0f} kB, {n_faces:.2e} faces; a machine has "
        f"{args.cores} cores and {args.network:g} Gbit/s; the store {args.store:g} GB/s, {args.requests:.0f} requests and "
        f"{args.listed:.0f} names a second"
    )
    print(f"{'machines':>8}  {'phase':<8}{'hours':>9}  limited by")
    all_phases: dict[int, list[Phase]] = {}
    for machines in args.machines:
        cluster = Cluster(
            machines, args.cores, args.network * 1e9 / 8, args.store * 1e9, args.requests, args.listed
        )  # fmt: skip
        phases = [
            photos_phase(times, cluster, n_photos=int(args.photos), shard=args.shard, spread=args.spread),
            pairs_phase(times, cluster, n_faces=n_faces, vector_bytes=times["bytes_per_vector"]),
            merge_phase(times, n_faces=n_faces),
        ]
        for phase in phases:
            used = ", ".join(f"{name} {share:.0%}" for name, share in phase.used.items())
            print(f"{machines:>8}  {phase.name:<8}{phase.seconds / 3600:>9.2f}  {phase.limit}; busy: {used}")
        slowest = max(phases, key=lambda phase: phase.seconds)
        total = sum(phase.seconds for phase in phases) / 3600
        print(
            f"{machines:>8}  {'all':<8}{total:>9.2f}  {slowest.name} takes {slowest.seconds / 36 / total:.0f} % of it"
        )
        all_phases[machines] = phases
    if args.write:
        draw(all_phases, args.photos)
        write_table(all_phases, times, args)


if __name__ == "__main__":
    main()
