"""Labeling on a Ray cluster: the pipeline, its workers, and what watches them."""
