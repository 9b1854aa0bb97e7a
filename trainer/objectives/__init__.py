"""What is minimized: contrastive, attention, probe and classifier objectives."""
