"""From the records of committed shards to the files that describe a data set."""
