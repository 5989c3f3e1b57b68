"""The native stream, `specs/stream.asyncapi.yaml`: one WebSocket for all that a client does in a sandbox."""
