"""The server's own listener: uvicorn's protocols with bounds on all that a client sends, or does not read."""
