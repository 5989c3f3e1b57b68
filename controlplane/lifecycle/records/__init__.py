"""What is known of sandboxes: their states, their history, and what is still to be written down."""
