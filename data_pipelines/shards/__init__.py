"""token ids -> writer: shards + manifest -> reader, by format (formats): a TokenSource -> windows of tokens.

Every file is hashed when it is written (tree, manifest) and verified when it is touched (shard); storage finds it,
wherever it lies.
"""
