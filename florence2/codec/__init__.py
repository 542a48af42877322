"""Between records and tokens: locations, tasks, answers, grammar, the official dictionaries, the tokenizer. No torch."""
