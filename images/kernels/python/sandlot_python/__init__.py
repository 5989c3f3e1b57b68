"""Python contexts on IPython's InteractiveShell. Runs in the image's own interpreter: the standard library and IPython.

zygote.py   imports everything once, forks one process a context
runner.py   one context: receives runs, executes them, says how they ended
shell.py    the InteractiveShell: where results, displays, errors and shell commands go
plain.py    values of user code as the protocol can carry them
background.py  the event loop between runs
figures.py  matplotlib's figures as results
channel.py  the socket to execd, and when Ctrl-C may strike
"""
