"""Helpers shared by tests: small models, graphs, galleries, videos, and slow reference implementations."""
