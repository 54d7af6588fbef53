"""Flax Linen modules: parameters are plain nested dicts, init and apply pure functions."""
