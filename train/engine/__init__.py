"""What we change in torchtitan, and why.

Its parts are extended once each, where the part lies; torchtitan's Trainer builds them from Trainer.Config and calls

    afmoe/spec            the model: built on the meta device, sharded by parallelize_fn, filled by init_weights
    loss/cross_entropy    BaseLoss, handed to the model's head by our train_step
    optim/groups          OptimizersContainer: step and zero_grad, by our train_step
    loop/rates            LRSchedulersContainer: step, by our train_step
    batches/loader        BaseDataLoader: iterated by our train_step; its state is in every checkpoint
    checkpoint/manager    CheckpointManager: load before the first step, save after each step
    loop/trainer          train_step, once a step; state_dict and load_state_dict, with a checkpoint
"""
