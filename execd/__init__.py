"""The agent in every sandbox: a folder for each service, with a `serve.py`."""
