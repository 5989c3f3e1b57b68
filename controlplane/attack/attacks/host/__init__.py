"""Attacks on the host, from inside a sandbox: all programs are harmless where they succeed."""
