"""The console over HTTP: sign-ins, one-time links, and the pages."""
