"""A client of any Sandlot server: its HTTP API, its native stream, and text of sandboxes made safe to show."""
