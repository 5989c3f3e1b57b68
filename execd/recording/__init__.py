"""Recorded runs: their replies are kept for clients that return."""
