"""Generators, their likelihood training, and the oracle."""
