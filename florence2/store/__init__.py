"""The data set on disk: Parquet fragments, snapshots over them, rejected annotations beside the kept."""

from florence2.store.dataset import Store, is_store

__all__ = ["Store", "is_store"]
