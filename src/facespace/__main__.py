"""Runs the command `facespace` as `python -m facespace`."""

from facespace.cli.main import main

main()
