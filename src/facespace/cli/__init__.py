"""The command line: one file per command, which parses options, calls the library and prints the results.

Begin with `main`, which registers the commands. To add one, write its file and register it in `main`. `shared` has what
several commands use, `legacy` the programs of the old tutorials.
"""
