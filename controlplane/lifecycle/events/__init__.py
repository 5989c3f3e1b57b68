"""The events of the server: what changes, for clients that listen; without such a client, events cost nothing."""
