"""A Django project, as `startproject` makes it."""
