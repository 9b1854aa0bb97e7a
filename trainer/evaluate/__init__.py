"""Measure what was learned: classification, robustness, retrieval, agreement with human attention (paper 4.2-4.5)."""
