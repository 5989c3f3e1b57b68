"""The link's protocol, without I/O: bytes in, events out; intents in, bytes out.

`connection.Connection` is the multiplexer. Both ends of the link, `execd/server.py` and
`controlplane/link/link.py`, are thin shells around it. Nothing in this package knows a socket, a clock or a task.
"""
