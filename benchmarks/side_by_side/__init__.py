"""Modules for `bench.py` and the scripts that measure peers: environments, processes, photos and medians.

`door` runs a file of `peers/` in the environment of that peer; `environments` creates these; `conversation` talks to them.
`rounds` lets peers alternate, `rows_*` are the rows of the table, by subject; `report` writes and prints the results.
"""
