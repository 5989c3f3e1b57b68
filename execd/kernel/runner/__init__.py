"""The process of a context: declared by an image, started or forked, and connected by a channel."""
