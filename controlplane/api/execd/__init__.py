"""The execd contract, `specs/execd.openapi.yaml` and `specs/terminal.asyncapi.yaml`: work inside a sandbox."""
