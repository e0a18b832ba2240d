"""compose -> sections -> check (rules) -> Run."""
