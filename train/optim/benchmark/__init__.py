"""What a step of Muon takes, ours and others', on the same matrices and ranks of this machine.

sections -> problem (the matrices, sharded and whole) -> contestants -> measure, on each rank -> report
                                                         bounds, counting: what a step needs, what it did
sections -> planned (no ranks: balance of the plan at any size)
"""
