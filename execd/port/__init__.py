"""Ports of the sandbox: connections to its services, and the port where clients look for Jupyter."""
