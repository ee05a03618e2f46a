"""LSH attention."""
