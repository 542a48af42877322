"""The data set on disk: Parquet fragments, snapshots over them, rejected annotations beside the kept.

`Store` is the way in. Beside it are the values that it takes and gives; `pending` makes of records what `Store.put_all`
commits. The rest of the project imports nothing else of this room.
"""

from florence2.store import pending
from florence2.store.dataset import Store, is_store
from florence2.store.failures import attempt_number, attempted_images, is_further
from florence2.store.image_rows import ImageRow
from florence2.store.import_metadata import ImportMetadata
from florence2.store.journal import Journal
from florence2.store.layout import TABLES
from florence2.store.parquet import Fragment, PendingFragment
from florence2.store.picture_index import PictureIndex, Wanted
from florence2.store.picture_reader import PictureState
from florence2.store.pieces import Signed
from florence2.store.scan import UnitGroup
from florence2.store.sealed import Damaged, Missing
from florence2.store.snapshots import Operator, Snapshot, StaleBase, extended
from florence2.store.storage import COMMIT_TRIES
from florence2.store.storage.local import sha256_of
from florence2.store.units import Unit
from florence2.store.verification import Damage

__all__ = [
    "COMMIT_TRIES", "Damage", "Damaged", "Fragment", "ImageRow", "ImportMetadata", "Journal", "Missing", "Operator",
    "PendingFragment", "PictureIndex", "PictureState", "Signed", "Snapshot", "StaleBase", "Store", "TABLES", "Unit",
    "UnitGroup", "Wanted", "attempt_number", "attempted_images", "extended", "is_further", "is_store", "pending",
    "sha256_of",
]  # fmt: skip
