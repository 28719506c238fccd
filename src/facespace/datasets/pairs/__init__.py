"""Pairs of photos of the same or of different people: LFW lists and CSV (`lists`), insightface's `.bin` files.

Begin with `pair_sets.read_pair_set`, which reads any of them. A `.bin` is a pickle: `pickle_checks` checks its
instructions before it is loaded.
"""
