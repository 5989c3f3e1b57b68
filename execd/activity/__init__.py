"""The activity of the sandbox: what clients do in it, in one order, for people who watch."""
