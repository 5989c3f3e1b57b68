"""What a program is started with: variables, user, directory, and the versions that an image declares."""
