"""The checks of this machine, with a cure for each failure: for `sandlot doctor` and for the server's report."""
