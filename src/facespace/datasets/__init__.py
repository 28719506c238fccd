"""Readers of datasets: class folders, lists of pairs, verification `.bin` files."""
