"""Warm containers: their number, their start, and their distribution."""
