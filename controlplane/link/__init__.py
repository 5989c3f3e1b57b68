"""The link to the agent of each sandbox: sockets, links, their directory, and streams."""
