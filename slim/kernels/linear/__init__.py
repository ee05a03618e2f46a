"""Linear attention, its feature maps and its state."""
