"""What one update is."""
