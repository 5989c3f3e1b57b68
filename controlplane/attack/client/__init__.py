"""What attacks are made of: targets, programs, raw bytes and outcomes."""
