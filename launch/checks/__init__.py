"""A checked run -> findings: what would make it fail once it holds its accelerators. One file a kind of check.

A check is a function of a Subject that yields findings (base.py); preflight.py groups them. It leaves nothing on disk.
"""
