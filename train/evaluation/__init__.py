"""Losses on text that is not trained on."""
