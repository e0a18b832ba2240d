"""The way of the data, one direction only.

    corpora/      documents (name, text) out of a corpus
      tokenize    documents -> token ids, one shard at a time          (tokenizer.py trains the vocabulary)
        shards    tokens on disk: raw ids + document ends              (manifest.py: what must be there, hashed)
          plan    global window number -> phase, source, epoch, index  (prp.py shuffles, ledger.py counts)
            loader  windows -> microbatches of one rank

`prepare.py` runs the first half once; everything after it is a pure function of the window number.
"""
