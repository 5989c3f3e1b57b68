"""Terminals: programs on PTYs."""
