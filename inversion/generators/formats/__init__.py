"""Readers of foreign checkpoints: they parse bytes and never import or call anything that a file names."""
