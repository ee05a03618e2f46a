"""What mixes tokens: one file for each kind."""
