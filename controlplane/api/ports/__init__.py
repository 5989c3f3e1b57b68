"""Ports of a sandbox: HTTP and WebSocket, forwarded to the services inside."""
