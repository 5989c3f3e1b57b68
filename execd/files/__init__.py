"""Files and directories of the sandbox."""
