"""Generators behind one protocol: mapping, synthesis, and features after any block."""
