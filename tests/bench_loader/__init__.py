"""corpus -> the same tokens in three formats -> a process for each library, which says how many it serves a second."""
