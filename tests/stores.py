"""Stores copied and deleted, on a disk or in an object store."""

import shutil

from florence2.object_store import Objects, is_object_url, root_of


def copied(store, name):
    """A copy of a store beside it, of that name."""
    place = root_of(store)
    target = place.parent / name
    if is_object_url(place):
        beside = Objects(place.parent)
        for facts in list(beside.list(place.name)):
            beside.copy(facts.path, f"{name}{facts.path.removeprefix(place.name)}")
    else:
        shutil.copytree(place, target)
    return target


def removed(store):
    """Delete a store, if there is one."""
    if is_object_url(store):
        objects = Objects(store)
        objects.delete([facts.path for facts in objects.list()])
    else:
        shutil.rmtree(store, ignore_errors=True)
