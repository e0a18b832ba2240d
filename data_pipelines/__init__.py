"""The way of the data, one direction only: each line is a folder that imports only those above it, and base/.

    plan/         global window number -> source, epoch, index     pure; ramp.py: step -> windows; ledger.py: the books
    tokenizer/    text <-> token ids                               trained here, or any Hugging Face folder
    shards/       token ids + document ends on disk, hashed        formats.py: who reads which layout
    documents/    files -> (name, text)                            which files, unpacked, UTF-8 or refused
    corpora/      a `data` section -> shards of each source        kinds.py: stdlib, files, shards; preparation.py
    batches/      windows -> microbatches of one rank              record.py: plan.json of a run; account.py: data.json

    base/         what every command stands on: composing, sections, errors, files that are whole

Files are commands: `prepare` makes a corpus ready, `tokenize` files, `verify` reads every byte, `explain` tells what a
step was trained on, `audit` whether all steps were trained on what the plan says, `show` draws it. Preparing is done
once; everything after it is a pure function of the window number.
"""
