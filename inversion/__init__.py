"""Inversion: photo tensors into a generator's W+ space, and the generator tuned around the pivot. Tensors only."""
