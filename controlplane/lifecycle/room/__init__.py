"""What sandboxes may take: of the machine, of the disk, and of an owner's quotas."""
