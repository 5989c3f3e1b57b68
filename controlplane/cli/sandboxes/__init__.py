"""The commands on sandboxes, and those that look after a server: clients, by HTTP and the native stream alone."""
