"""What `bench.py` and the scripts beside it measure peers with: their environments, their processes, photos and medians.

`door` runs a file of `peers/` in the environment of that peer; `environments` makes these; `conversation` talks to them.
`rounds` lets peers take turns, `rows_*` are the rows of the table, by subject; `report` writes and prints what came of it.
"""
