"""The life of sandboxes: from their creation through pauses and snapshots to their end."""
