"""From shards to batches: data sets, sampler, stream, decoding, crops, augmentation."""
