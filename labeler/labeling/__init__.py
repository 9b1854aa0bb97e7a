"""Labeling of one shard, from images to a committed tar file, in a plain process without Ray."""
