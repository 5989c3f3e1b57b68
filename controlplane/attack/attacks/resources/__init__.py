"""Attacks on what sandboxes share: each takes at most twice what its own small sandbox may have."""
