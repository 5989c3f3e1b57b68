"""What runs containers: the seam that the control plane sees, and a folder for each engine."""
