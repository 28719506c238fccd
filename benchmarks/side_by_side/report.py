"""The results of a run: one JSON file, and the printed table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .rounds import CANNOT, Row

SCHEMA = 1


def as_json(
    rows: Sequence[Row], ours: str, peers: dict[str, dict[str, Any]], facts: dict[str, Any], failures: Sequence[str]
) -> dict[str, Any]:
    """Everything that was measured. Ratios above 1 mean that ours is better; "n" is the number of rounds."""
    told = []
    for row in rows:
        cells: dict[str, Any] = {}
        for name, cell in row.cells.items():
            if not cell.values:
                cells[name] = {"missing": cell.missing or CANNOT, **cell.facts}
                continue
            cells[name] = {
                "median": cell.median,
                "spread": [min(cell.values), max(cell.values)],
                "n": len(cell.values),
                "values": cell.values,
                "cpu_seconds": cell.cpu,
                **cell.facts,
            }
            if cell.missing:
                cells[name]["incomplete"] = cell.missing
            if name != ours and (ratio := row.ratio(ours, name)) is not None:
                cells[name] |= {"ratio": ratio, "ratio_spread": list(row.ratio_spread(ours, name) or ())}
        told.append({"group": row.group, "name": row.name, "unit": row.unit, "better": row.better, "cells": cells})
    return {"schema": SCHEMA, **facts, "ours": ours, "peers": peers, "failures": list(failures), "rows": told}


def write(told: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def number(value: float) -> str:
    """Three digits, and no more than are there.

    >>> number(1234.5), number(12.34), number(0.01234), number(0)
    ('1234', '12.3', '0.0123', '0')
    """
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def table(told: dict[str, Any]) -> str:
    """The table as text: a block a group, a line a row and peer, ours first; peers that can do nothing of a group are left out."""
    ours, titles = told["ours"], {name: peer["title"] for name, peer in told["peers"].items()}
    width = max(map(len, titles.values()), default=0) + 2
    lines: list[str] = []
    group = None
    taking_part = {
        (row["group"], name)
        for row in told["rows"]
        for name, cell in row["cells"].items()
        if cell.get("missing") != CANNOT
    }
    for row in told["rows"]:
        if row["group"] != group:
            group = row["group"]
            lines += ["", group.upper()]
        lines.append(f"{row['name']} ({row['unit']}, {row['better']} is better)")
        for name, title in titles.items():
            if (group, name) not in taking_part:
                continue
            cell = row["cells"].get(name, {"missing": CANNOT})
            if "missing" in cell:
                why = "–" if cell["missing"] == CANNOT else cell["missing"]
                lines.append(f"  {title:<{width}}{why:>10}")
                continue
            low, high = cell["spread"]
            line = f"  {title:<{width}}{number(cell['median']):>10}"
            line += f"  [{number(low)} – {number(high)}]".ljust(22) if cell["n"] > 1 else " " * 22
            if name != ours and "ratio" in cell:
                line += f"ours {number(cell['ratio'])} times"
                if cell["n"] > 1:
                    line += f" [{' – '.join(map(number, cell['ratio_spread']))}]"
            line += "".join(f"; {key} {value}" for key, value in cell.items() if key in ("faces", "found", "says"))
            lines.append(line.rstrip())
    return "\n".join(lines)
