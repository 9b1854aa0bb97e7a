"""What a job will make: plans, listings and generations."""
