"""Softmax attention, at once and by blocks."""
