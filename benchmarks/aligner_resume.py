"""The aligner killed at ten random moments, and four aligners at once, compared byte by byte with one undisturbed run."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def start(raw: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "facespace", "align", str(raw), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def crops(out: Path) -> dict[Path, int]:
    """Every crop with the time it was written."""
    return {path: path.stat().st_mtime_ns for path in out.glob("*/*.png") if not path.name.startswith(".")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--photos", type=int, default=700)
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args()
    paths = sorted((args.shared / "data/lfw_view1/images").rglob("*.jpg"))[: args.photos]
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw")
        for path in paths:
            (raw / path.parent.name).mkdir(parents=True, exist_ok=True)
            (raw / path.parent.name / path.name).symlink_to(path.resolve())
        begin = time.perf_counter()
        start(raw, Path(folder, "clean")).communicate()
        whole = time.perf_counter() - begin
        clean = contents(Path(folder, "clean"))
        print(f"one undisturbed run: {len(paths)} photos, {len(clean)} files")

        out = Path(folder, "killed")
        again = 0
        for _ in range(10):
            before = crops(out)
            process = start(raw, out)
            time.sleep(chance.uniform(0.5, 3 + whole / 10))
            process.kill()
            process.communicate()
            after = crops(out)
            again = max(again, sum(after[path] != written for path, written in before.items()))
        left = len(crops(out))
        code = start(raw, out)
        code.communicate()
        print(
            f"killed ten times ({left} crops then), started once more: exit code {code.returncode}, "
            f"identical: {contents(out) == clean}; at most {again} crops were made again after a kill"
        )

        for name in sorted(contents(out).keys() ^ clean.keys())[:5]:
            print(f"  differs: {name}")

        out = Path(folder, "four")
        running = [start(raw, out) for _ in range(4)]
        for process in running:
            process.communicate()
        codes = [process.returncode for process in running]
        print(f"four at once: exit codes {codes}, identical: {contents(out) == clean}")


if __name__ == "__main__":
    main()
