"""Conversions killed at random moments and started again, compared byte by byte with undisturbed ones.

usage: convert_resume.py [--shared FOLDER] [--rounds N]
Each round kills one conversion several times (SIGKILL, after a random part of the time of an undisturbed one) and
lets the last one finish. If the script may mount a small file system, it also tests conversions to a full disk.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from facespace.datasets.writing import FORMATS

# The journal is written after each image, so that there is something to go on with after any kill.
CHILD = """
import os, sys
from facespace.datasets import convert as dataset_convert
dataset_convert._SAFE_SECONDS = float(sys.argv[4])
os.fsync = os.sync = lambda *_: None
dataset_convert.convert_dataset(sys.argv[1], sys.argv[2], to=sys.argv[3], shard_images=100)
"""


def start(source: Path, out: Path, to: str, every: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", CHILD, str(source), str(out), to, str(every)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed(source: Path, folder: Path, to: str, rounds: int, chance: random.Random) -> None:
    begin = time.perf_counter()
    start(source, folder / "once", to, 0.0).communicate()
    whole = time.perf_counter() - begin
    wanted = contents(folder / "once")
    n_kills = n_identical = n_litter = 0
    for _ in range(rounds):
        for _ in range(chance.randrange(1, 6)):
            process = start(source, folder / "out", to, 0.0)
            time.sleep(chance.uniform(0.2, 1.0) * whole)
            process.kill()
            process.communicate()
            n_kills += process.returncode != 0
        last = start(source, folder / "out", to, 0.02)
        _, errors = last.communicate()
        if last.returncode:
            print(errors.decode())
        n_identical += (folder / "out").is_dir() and contents(folder / "out") == wanted
        n_litter += sorted(os.listdir(folder)) != ["once", "out"]
        shutil.rmtree(folder / "out", ignore_errors=True)
    print(
        f"{to}: {rounds} conversions killed {n_kills} times in all, then finished: {n_identical} identical to the byte "
        f"({len(wanted)} files), {n_litter} left anything else behind"
    )


def full(source: Path, folder: Path, to: str) -> None:
    disk = folder / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size for path in source.rglob("*")) // 2
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True).returncode:
        print(f"{to}: a full disk was not tried, as this may not mount one")
        return
    command = [sys.executable, "-m", "facespace", "dataset", "convert", source, disk / "out", "--to", to]
    command += ["--shard-images", "100"]
    try:
        first = subprocess.run(command, capture_output=True, text=True, check=False)
        before = sorted(os.listdir(disk))
        subprocess.run(["mount", "-o", f"remount,size={size * 8}", disk], check=True)
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        same = contents(disk / "out") == contents(folder / "once") if (disk / "out").is_dir() else False
        said = first.stderr.strip().replace(str(disk), "DISK")
        print(f"{to} on a full disk: exit code {first.returncode}, `{said}`, left {before}")
        print(f"  with more room: exit code {second.returncode}, identical: {same}")
    finally:
        subprocess.run(["umount", disk], check=True)
        disk.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    source = (args.shared / "data" / "train_182").resolve()
    chance = random.Random(args.seed)
    for to in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            killed(source, Path(folder), to, args.rounds, chance)
            full(source, Path(folder), to)


if __name__ == "__main__":
    main()
