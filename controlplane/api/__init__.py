"""The edge over HTTP: a folder for each contract, above `runs`, above `edge`."""
