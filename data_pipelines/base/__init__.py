"""What every command of the project stands on, train's too.

command line (command, overrides) -> one configuration (compose) -> typed sections (sections) -> result or "error:"
lines (errors, signals); files are whole or not there (files), work is spread over processes (workers).
"""
