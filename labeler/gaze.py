"""Gaze point extraction (public import path)."""

from common.gaze import gaze_points

__all__ = ["gaze_points"]
