"""The scan over chunks, and its policies."""
