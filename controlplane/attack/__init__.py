"""`sandlot attack`: a battery of attacks on a running deployment, through its API, as its users could run them."""
