"""Command line (overrides, sweep) -> one configuration of YAML files (compose) -> typed sections (sections)."""
