"""Installs packages into the environment of this Python: `scripts/install.py -c constraints.txt -e ".[dev]"`.

Uses uv, which needs a tenth of pip's time, with the indexes, files and certificates from pip's configuration. If uv
cannot be installed or fails, pip installs the packages.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys

PIP = [sys.executable, "-m", "pip"]
# pip's setting, uv's variable, and the separator between several values of the variable.
SETTINGS = [
    ("index-url", "UV_DEFAULT_INDEX", " "),
    ("extra-index-url", "UV_INDEX", " "),
    ("find-links", "UV_FIND_LINKS", ","),
    ("constraint", "UV_CONSTRAINT", " "),
    ("cert", "SSL_CERT_FILE", " "),
    ("default-timeout", "UV_HTTP_TIMEOUT", " "),
    ("timeout", "UV_HTTP_TIMEOUT", " "),
]


def pip_settings() -> dict[str, str]:
    """Return pip's configuration by option name; as in pip, environment variables take precedence over files."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=True).stdout
    found: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):
        for line in listed.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(section):
                found[key.removeprefix(section)] = str(ast.literal_eval(value))
    return found


def uv_environment() -> dict[str, str]:
    """Return the environment in which uv uses pip's settings; existing settings for uv are kept."""
    settings = pip_settings()
    made = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # the best version across all indexes, as in pip
    for name, variable, between in SETTINGS:
        if values := settings.get(name, "").split():
            made[variable] = between.join(values)
    return {**made, **os.environ}


def main() -> int:
    """Install with uv, or else with pip; return the exit code."""
    arguments = sys.argv[1:]
    got_uv = subprocess.run([*PIP, "install", "-qq", "--disable-pip-version-check", "uv"], check=False).returncode == 0
    if got_uv:
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, *arguments]
        if subprocess.run(command, env=uv_environment(), check=False).returncode == 0:
            return 0
    print("uv could not install the packages; using pip, which takes some minutes.", file=sys.stderr)
    return subprocess.run(
        [*PIP, "install", "--quiet", "--disable-pip-version-check", *arguments], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
