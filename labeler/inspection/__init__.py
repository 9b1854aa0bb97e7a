"""What verify, preview and stats read and compute."""
