"""The rules that move the selection biases: load balancing without an auxiliary loss.

A rule is a file with a class: its settings, which are the `balance` section, and the pure function from the loads of
one optimizer step to the change of the biases, all layers at once. base.py says what every rule has, kinds.py names the
rules; train/balance/balancer.py applies one to a model.
"""
