"""Where a gallery keeps its vectors.

Begin with `protocol.Store`; `sqlite` keeps them in one file. To add a store, write a class that satisfies `Store`, and add
it to tests/identification/stores/test_protocol.py.
"""
