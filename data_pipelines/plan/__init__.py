"""step -> ramp: global window numbers -> plan (shuffled by prp): source, epoch, index -> ledger: tokens used so far."""
