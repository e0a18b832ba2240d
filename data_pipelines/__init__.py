"""The way of the data, one direction only.

    corpora/        documents (name, text) out of a corpus        holdout.py: which of them are held out
      tokenize      documents -> token ids, one shard at a time   tokenizer.py: the vocabulary
        shards      raw ids + document ends on disk               manifest.py: what must be there, hashed
          sources   shards -> windows of seq_len target tokens    verify.py: every byte
            plan    global window number -> source, epoch, index  prp.py: the shuffle; ledger.py, explain.py: the books
              loader  windows -> microbatches of one rank         windows.py: inputs, positions, labels

`prepare.py` runs the first half once; everything after it is a pure function of the window number.
"""
