"""The server: the composition of a control plane, and its HTTP service."""
