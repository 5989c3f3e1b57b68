"""What every request meets: its log, its caller, its rights, its parameters and its errors."""
