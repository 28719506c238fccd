"""Stores that keep a gallery's people and vectors.

Begin with `protocol.Store`; `sqlite` is the default, one file. To add a store, write a class that satisfies `Store`, and
add it to tests/identification/stores/test_protocol.py.
"""
