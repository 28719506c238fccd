"""Peak memory and seconds of `detect` and `identify` on photos of 108 and 200 megapixels, one and four per command.

Each line is a separate process; its peak is what the kernel counted (`ru_maxrss`), so it includes models and libraries.
The first line, a small photo, shows what these take alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = {"108 MP": (12000, 9000), "200 MP": (16384, 12288)}
# Made in a process of its own: the kernel counts the memory of a process that starts another as the other's, too.
MAKE = """
import sys
from PIL import Image

photo = Image.open(sys.argv[1]).convert("RGB").resize((int(sys.argv[2]), int(sys.argv[3])), Image.Resampling.BICUBIC)
photo.save(sys.argv[4] + ".jpg", quality=90)
photo.save(sys.argv[4] + "-progressive.jpg", quality=90, progressive=True)
photo.save(sys.argv[4] + ".png", compress_level=1)
"""


def measure(*command: str) -> tuple[float, float, int]:
    """Peak MB, seconds and exit code of facespace with these arguments."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "facespace", *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / 1024, time.perf_counter() - start, process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--commands", nargs="+", choices=["detect", "identify"], default=["detect", "identify"])
    args = parser.parse_args()
    people = args.shared / "data/album/known"
    small = next(iter(sorted(people.rglob("*.jpg"))))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = {"small, JPEG": small}
        for size, (width, height) in SIZES.items():
            target = str(folder / size.replace(" ", ""))
            subprocess.run([sys.executable, "-c", MAKE, str(small), str(width), str(height), target], check=True)
            photos |= {f"{size}, JPEG": Path(target + ".jpg"), f"{size}, PNG": Path(target + ".png")}
            photos[f"{size}, progressive JPEG"] = Path(target + "-progressive.jpg")
        gallery = str(folder / "gallery")
        subprocess.run(
            [sys.executable, "-m", "facespace", "enroll", "--gallery", gallery, "--folder", people],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,  # a few portraits have no face
        )
        print(f"{'command':10}{'photo':26}{'photos':>8}{'peak MB':>10}{'seconds':>10}", flush=True)
        for command in args.commands:
            arguments = ["--gallery", gallery] if command == "identify" else []
            for photo, path in photos.items():
                for n in (1, 4):
                    peak, seconds, code = measure(command, *arguments, *[str(path)] * n)
                    failed = "" if code == 0 else f"  exit code {code}"
                    print(f"{command:10}{photo:26}{n:>8}{peak:>10.0f}{seconds:>10.1f}{failed}", flush=True)


if __name__ == "__main__":
    main()
