"""Linear attention, its feature maps and its sums."""
