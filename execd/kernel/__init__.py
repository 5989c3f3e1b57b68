"""Contexts: live interpreters that run one piece of code after the other."""
