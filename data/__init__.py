"""Photographs and their geometry: reading, writing, face landmarks and alignment (numpy only, no torch)."""
