"""`python -m facespace` is the command `facespace`."""

from facespace.cli.main import main

main()
