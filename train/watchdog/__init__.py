"""A run that does not move ends with the names of those that hold it up, and with a stack of every rank."""
