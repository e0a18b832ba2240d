"""Comparisons that a user can run again: the same small problem, trained by the real trainer in several ways."""
