"""Keeping the routing healthy while training."""
