"""Processes: their start, their pipes, their end, and the output that is kept of them."""
