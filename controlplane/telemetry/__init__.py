"""What the server tells of itself to who runs it: metrics, and how they are taken."""
