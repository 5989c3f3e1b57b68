"""The activity of a sandbox over HTTP: `/sandboxes/{id}/activity`."""
