"""Publishing of a data set: from what workers store for each committed shard to the files that describe them all."""
