"""Cross-lingual speech pretraining in JAX: wav2vec 2.0, XLSR, UniSpeech and modified CPC."""
