"""Comparison of two labelings of the same images."""
