"""Labeling on a Ray cluster: resources, the pipeline, its workers, and their progress, metrics and throughput."""
