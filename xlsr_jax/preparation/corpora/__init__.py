"""One reader a corpus, all with the signature of ``base.Corpus``."""
