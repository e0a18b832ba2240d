"""token ids -> writer: shards + manifest -> reader, by format (formats): a TokenSource -> windows of tokens.

Every file is hashed when it is written (manifest) and verified when it is touched; storage finds it, wherever it lies.
"""
