"""text <-> token ids."""
