"""What the counts mean."""
