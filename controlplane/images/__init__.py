"""The images of sandboxes: their names, folders, builds and publication."""
