"""The embedded store, which outlives the server, and the disk space reserved for it."""
