"""Between records and tokens: locations, tasks, answers, grammar, official dictionaries, the tokenizer. No torch."""
