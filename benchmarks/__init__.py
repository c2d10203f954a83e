"""Measurements of speed, memory and quality; each file is a command of its own."""
