"""Verification of data sets and of their public copies."""
