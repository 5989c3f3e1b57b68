"""The server itself, for those who look after it: its events, its state, its images and volumes, its log."""
