"""Publishing of a data set: from the records of committed shards to the files that describe it."""
