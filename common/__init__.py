"""Code shared by the labeler and the trainer: settings, errors, storage, image handling, the shard format and pages."""
