"""What the labelling and the training job share: settings, storage, the shards' format, images, pages."""
