"""The console: its pages, which are built from `web`, as files that the server has."""
