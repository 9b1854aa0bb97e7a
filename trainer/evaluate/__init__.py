"""Evaluation of trained models: classification, robustness, retrieval, human attention (paper 4.2 to 4.5)."""
