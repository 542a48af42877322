"""Every specialist by name. One file a specialist; a heavy library is imported by its file alone, when it is set up."""

from florence2.engine.specialists.registry import (
    SPECIALISTS,
    WITH_ARGUMENT,
    UnknownSpecialist,
    absolute,
    as_specialist,
    open,
)

__all__ = ["SPECIALISTS", "UnknownSpecialist", "WITH_ARGUMENT", "absolute", "as_specialist", "open"]
