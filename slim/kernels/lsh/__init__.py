"""LSH attention, as in Reformer."""
