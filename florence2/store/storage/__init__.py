"""Where a store's files lie: one interface, and what is behind it."""

from florence2.store.storage.commit_turn import COMMIT_TRIES, turn_after
from florence2.store.storage.interface import Storage, next_number
from florence2.store.storage.schemes import open_storage

__all__ = ["COMMIT_TRIES", "Storage", "next_number", "open_storage", "turn_after"]
