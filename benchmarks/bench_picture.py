"""Draw the picture of the README from the results of `bench.py`: speed relative to each peer, with the processor's name.

usage: bench_picture.py [--results benchmarks/results/bench.json] [--output docs/images/bench.svg]
"""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

HERE = Path(__file__).parent
GROUPS = ("detection", "embedding", "album", "training", "search")
COLUMNS = 3
MARKS = "osD^vPX"
COLOURS = ("#2a6f97", "#bc4b51", "#5b8e7d", "#8d6a9f", "#d08c60", "#3d405b", "#b5838d", "#6a994e", "#7f7f7f", "#c9a227")


def shown_rows(told: dict[str, Any], group: str) -> list[dict[str, Any]]:
    """The rows of a group that at least one peer has a ratio in."""
    rows = [row for row in told["rows"] if row["group"] == group and not row["name"].endswith("index built")]
    return [row for row in rows if any("ratio" in cell for cell in row["cells"].values())]


def conditions(told: dict[str, Any]) -> str:
    """The processor, its features, the cores and the day."""
    machine = told["machine"]
    features = ", ".join(machine["features"]) or "features unknown"
    load = told["load"]["before"]
    busy = "" if load is None else f", load before {load:g}"
    return f"{machine['processor']} ({features}), {machine['cores']} cores{busy}, {told['date'][:10]}"


def short(name: str) -> str:
    return name.replace("InceptionResnetV1, ", "").replace(" photos a call", " a call").replace(", files to names", "")


def draw(told: dict[str, Any], output: Path) -> None:
    """Write an SVG: a panel a group, a line a row, a mark a peer, the same in all panels; other models of ours are left out."""
    panels = [(group, rows) for group in GROUPS if (rows := shown_rows(told, group))]
    if not panels:
        raise SystemExit("no row has a peer beside ours: nothing to draw")
    peers = [
        name
        for name in told["peers"]
        if not told["peers"][name]["own"]
        and any("ratio" in row["cells"].get(name, {}) for _, rows in panels for row in rows)
    ]
    shapes = dict(zip(peers, MARKS * math.ceil(len(peers) / len(MARKS)), strict=False))
    colours = dict(zip(peers, COLOURS * math.ceil(len(peers) / len(COLOURS)), strict=False))
    heights = [len(rows) + 1.2 for _, rows in panels]
    with mpl.rc_context(
        {"font.family": "DejaVu Sans", "font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "bench"}
    ):
        figure = Figure(figsize=(9, 0.34 * sum(heights) + 1.9), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})
        for axis, (group, rows) in zip(axes[:, 0], panels, strict=True):
            for place, row in enumerate(rows):
                for name in peers:
                    cell = row["cells"].get(name, {})
                    if "ratio" in cell:
                        axis.plot(
                            *zip(*((r, place) for r in cell["ratio_spread"]), strict=True),
                            color=colours[name],
                            lw=1.5,
                            alpha=0.5,
                        )
                        axis.plot(cell["ratio"], place, shapes[name], ms=6.5, color=colours[name], mec="white", mew=0.6)
            axis.axvline(1, color="black", lw=1)
            axis.set_yticks(range(len(rows)), [short(row["name"]) for row in rows])
            axis.set_ylim(len(rows) - 0.4, -0.6)
            axis.set_title(group, loc="left", fontsize=10, fontweight="bold")
            axis.grid(axis="x", which="both", color="#dddddd", lw=0.6)
            axis.set_axisbelow(True)
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.tick_params(axis="y", length=0)
        last = axes[-1, 0]
        last.set_xscale("log")
        last.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        last.set_xlabel("how many times as fast as the peer (right of 1×: facespace is faster)")
        marks = [Line2D([], [], marker=shapes[name], ls="", color=colours[name]) for name in peers]
        labels = [told["peers"][name]["title"] for name in peers]
        figure.legend(marks, labels, loc="outside upper left", ncols=COLUMNS + 1, frameon=False, fontsize=8.5)
        figure.supxlabel(
            "\n".join(textwrap.wrap(f"{conditions(told)}. Marks are medians of alternating rounds, lines their spread.", 120)),
            fontsize=8, color="#444444",
        )  # fmt: skip
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, metadata={"Date": None}, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results/bench.json")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs/images/bench.svg")
    args = parser.parse_args()
    told = json.loads(args.results.read_text(encoding="utf-8"))
    draw(told, args.output)
    print(f"{args.output}: {conditions(told)}")


if __name__ == "__main__":
    main()
