"""photodrag: a photograph in, a dragged photograph out. The command line, the stages, and all that writes files."""

__version__ = "0.1.0"
