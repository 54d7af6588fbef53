"""Optimizer, state, step, loop, checkpoints and logs; knows neither models nor data formats."""
