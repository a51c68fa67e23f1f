"""Figures, as ratios taken in one interleaved run: `make bench`."""
