"""From a prepared prompt to token ids: the search, the rules it keeps, and the one function that joins them."""
