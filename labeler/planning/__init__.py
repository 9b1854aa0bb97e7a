"""Planning of a job: which images go to which shards, in the first plan of a data set and in later generations."""
