"""The link's protocol, without I/O: bytes in, events out; intents in, bytes out."""
