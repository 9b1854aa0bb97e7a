"""Gaze point extraction (public import path)."""

from labeler.labeling.gaze import gaze_points

__all__ = ["gaze_points"]
