"""The command line: one file for each command, which parses, calls the library and prints.

Begin with `main`, which joins the commands. To add one, write its file and name it in `main`. `shared` has what several
commands use, `legacy` the programs of the old tutorials.
"""
