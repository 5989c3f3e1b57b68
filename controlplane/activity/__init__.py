"""The activity of sandboxes on its way to the people who watch."""
