"""Training of the teacher: settings, data, augmentation, training step, loop and validation."""
