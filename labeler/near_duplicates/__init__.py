"""Near-duplicates in one or two data sets: images that were resized, compressed, cropped or mirrored."""
