"""Code that never ends, by language."""

ENDLESS = {
    "python": "while True: pass",
    "javascript": "for (;;) {}",
    "typescript": "for (;;) {}",
    "java": "while (true) {}",
    "go": "for {}",
    "bash": "while :; do :; done",
}
