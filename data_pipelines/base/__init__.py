"""What every command of the project stands on, train's too.

arguments (command) -> result or "error:" lines (errors, signals, streams), with a bar meanwhile (progress); files are
whole or not there (files), work is spread over processes (workers), pictures
share a style (canvas).
"""
