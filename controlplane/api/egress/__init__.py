"""The egress contract, `specs/egress.openapi.yaml`: what a sandbox may reach."""
