"""Checks for technologies: one flat file each, a function that returns a check function."""
