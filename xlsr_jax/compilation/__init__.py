"""What a compiled update costs: its memory, arithmetic, traffic and time on a TPU slice."""
