"""The data engine: specialists annotate, filters judge, merge decides; a store holds what each of them said."""
