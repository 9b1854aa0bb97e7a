"""The input pipeline, from shards to batches: data sets, sampler, streams, decoding, crops and augmentation."""
