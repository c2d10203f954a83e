"""Editing: drags on a generator, and the way of the change back into the photograph."""
