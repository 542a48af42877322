"""The network: sizes, tower, encoder-decoder, cache, preprocessing, checkpoints. Knows no task and no text."""
