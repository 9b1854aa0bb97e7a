"""Training the teacher: photographs with fixations, how they are shown, the losses, the loop."""
