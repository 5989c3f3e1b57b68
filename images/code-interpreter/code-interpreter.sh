#!/bin/sh
# The entrypoint that OpenSandbox clients name for this image. There it starts a Jupyter server; here contexts need none, so
# it only keeps the sandbox running until it is stopped.
exec sleep infinity
