"""What a codebook learned: codes of a corpus, figures of them, pictures and a page."""
