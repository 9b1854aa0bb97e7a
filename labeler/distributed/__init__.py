"""Labeling on a Ray cluster: the pipeline, its workers, and their progress, metrics and throughput."""
