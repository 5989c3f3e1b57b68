"""The lifecycle contract, `specs/lifecycle.openapi.yaml`: sandboxes, snapshots, keys and the server itself."""
