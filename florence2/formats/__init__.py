"""Foreign formats: one module each, `read(path) -> Iterator[Sample]` and, where it is a twin, `write(samples, path)`.

A reader names every problem with its file and line or record. A writer returns a count of what the format cannot hold.
Pictures stay where they are: of a sample, `image.id` is the name as the file spells it, and `image.uri` opens it.
"""
