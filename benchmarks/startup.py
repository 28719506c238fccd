"""How long `import facespace` and `facespace --help` take with a warm cache, and what they load."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 15
HEAVY = ("torch", "onnxruntime", "numpy", "PIL", "sqlite3")


def median(command: list[str]) -> float:
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def loaded(code: str) -> list[str]:
    code = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it every process would compile every module again
    command = str(Path(sys.executable).with_name("facespace"))
    bare = median([sys.executable, "-c", "pass"])
    imported = median([sys.executable, "-c", "import facespace"])
    helped = median([command, "--help"])
    print(f"python {sys.version.split()[0]}, medians of {RUNS - 1} warm runs, python's own start included")
    print(f"bare python         {bare:.3f} s")
    print(f"import facespace    {imported:.3f} s, loads of {', '.join(HEAVY)}: {loaded('import facespace') or 'none'}")
    print(f"facespace --help    {helped:.3f} s, loads: {loaded('import facespace.cli.main') or 'none'}")


if __name__ == "__main__":
    main()
