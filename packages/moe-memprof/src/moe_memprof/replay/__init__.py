"""A step of training replayed in sizes: what eager PyTorch allocates, keeps for the backward pass and frees, without PyTorch."""
