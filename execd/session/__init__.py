"""Sessions: live bash under an id, plain or isolated in namespaces of its own."""
