"""Score a teacher on human fixations."""
