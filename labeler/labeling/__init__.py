"""One shard, from photographs to a committed tar file, in a plain process."""
