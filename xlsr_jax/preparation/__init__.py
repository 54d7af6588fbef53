"""Corpora as downloaded in, shards out."""
