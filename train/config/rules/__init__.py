"""Rules across sections."""
