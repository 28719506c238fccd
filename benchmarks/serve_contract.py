"""The API of `facespace serve` tested against its own description by schemathesis: examples, boundary values, random and invalid
requests, and sequences of requests that use values from earlier answers.

The service runs as installed, with a key and a gallery of people of the album. Every answer must be one that the
description contains, with its type and shape; the only server error may be 503 with Retry-After; every error must be
a problem according to RFC 9457. The checks are those of schemathesis and of tests/support/contract/hooks.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import facespace
from served import album_gallery, ask, served
from speed import processor

CONTRACT = Path(__file__).parents[1] / "tests" / "support" / "contract"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", type=int, default=20, help="number of failures after which to stop")
    args = parser.parse_args()
    photos = [
        str(next(iter(sorted(person.iterdir())))) for person in sorted((args.shared / "data/album/known").iterdir())
    ]
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder, "people.gallery")
        album_gallery(args.shared, gallery, facespace.FaceAnalyzer())
        create = [
            sys.executable,
            "-m",
            "facespace",
            "serve",
            "key",
            "create",
            "--role",
            "admin",
            "--gallery",
            str(gallery),
        ]
        made = subprocess.run(create, check=True, capture_output=True, text=True)
        key = re.search(r"fsk_([A-Za-z0-9]+)_[\w-]{43}", made.stdout)
        assert key, made.stdout
        with served(gallery, "--allow-private-webhooks") as server:  # targets are on loopback alone
            address = f"http://127.0.0.1:{server.port}"
            environment = os.environ | {
                "FACESPACE_CONTRACT_KEY": key[1],
                "FACESPACE_CONTRACT_PHOTOS": os.pathsep.join(photos[:8]),
                "PYTHONPATH": os.pathsep.join([str(CONTRACT), os.environ.get("PYTHONPATH", "")]),
            }
            command = [
                sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONTRACT / "schemathesis.toml"),
                "run", f"{address}/v1/openapi.json", "--url", address, "--header", f"Authorization: Bearer {key[0]}",
                "--max-time", str(round(args.minutes * 60)), "--seed", str(args.seed), "--max-failures", str(args.failures),
                "--no-shrink",
            ]  # fmt: skip
            start = time.monotonic()
            done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
            seconds = time.monotonic() - start
            alive = server.process.poll() is None
            ready = ask(server.port, "GET", "/readyz").status
            description = json.loads(ask(server.port, "GET", "/v1/openapi.json").body)
    output = done.stdout.replace(key[0], "fsk_…")
    operations = sum(
        len(set(methods) & {"get", "post", "put", "patch", "delete"}) for methods in description["paths"].values()
    )
    print(f"{processor()}; {operations} operations, {seconds:.0f} s, seed {args.seed}")
    print(output[output.find("=== FAILURES") :][:20_000] if done.returncode else output[output.find("=== SUMMARY") :])
    print(f"the server is {'up' if alive else 'DOWN'}, /readyz answers {ready}")
    print(f"{'every answer is as described' if done.returncode == 0 else 'NOT every answer is as described'}")
    sys.exit(bool(done.returncode or not alive or ready != 200))


if __name__ == "__main__":
    main()
