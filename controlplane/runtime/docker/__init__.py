"""The Docker engine: its connection, its events, and how a sandbox's container is confined."""
