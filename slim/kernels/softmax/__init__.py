"""Softmax attention, from all scores at once or block by block."""
