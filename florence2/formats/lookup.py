"""Pictures and label files found by what a file calls them: as written, spelled otherwise, or by the end of the path.

A name that is not there as written means the one file that differs in its spelling alone: accents composed or not,
upper or lower case, %20, slashes that lean the other way, the eight hex digits and dash that Label Studio puts before
an upload's name. Where two would fit, none is taken. Files that other programs leave behind are passed over.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from florence2.formats.validation import brief

PICTURES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .bmp .dib .webp .tif .tiff .jp2 .jpeg2000 .avif .heic .heif .hif .ppm .pgm "
    ".pbm .pnm .tga .ico".split()
)  # how the names of picture files end
# where systems keep what was deleted, previews and older versions, beside folders whose name begins with a dot
SYSTEM_FOLDERS = frozenset(
    ("__macosx", "$recycle.bin", "recycler", "recycled", "#recycle", "@recycle", "@eadir", "#snapshot")
    + ("system volume information", "lost+found", "@recently-snapshot")
)
SPLIT_WORDS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)", re.IGNORECASE)


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is another program's: hidden, a Mac's copy, a NAS's previews, a bin."""
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


def files_in(folder: Path, suffixes: Iterable[str], deep: bool = False) -> list[Path]:
    """The files of a folder (with `deep`, and of those below it) with these suffixes in any case; numbers by size."""
    wanted = frozenset(suffixes)
    found = (path for path in _walk(folder, deep) if os.path.splitext(path)[1].lower() in wanted)
    return sorted(map(Path, found), key=_order)


def pictures_in(folder: Path, deep: bool = False) -> list[Path]:
    """All picture files of a folder."""
    return files_in(folder, PICTURES, deep)


def holds(folder: Path, pattern: str) -> bool:
    """Whether a folder holds a file of this pattern that is nobody's litter."""
    return folder.is_dir() and any(not is_litter(path.name) and path.is_file() for path in folder.glob(pattern))


def matching(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder of this pattern, litter passed over, by name."""
    return sorted(path for path in folder.glob(pattern) if not is_litter(path.name) and path.is_file())


def _order(path: Path) -> tuple[object, ...]:
    return (str(path.parent), *((1, len(path.stem)) if path.stem.isdigit() else (0, 0)), path.name)


def _walk(folder: Path | str, deep: bool) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if is_litter(entry.name):
            continue
        if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):  # a dead link is to be named
            yield entry.path
        elif deep and entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, deep)


def fold(name: str) -> str:
    """A name without what may differ in its spelling."""
    return unicodedata.normalize("NFC", unquote(name)).casefold()


class Lookup:
    """The files below some folders, by name. `own` is the labels' folder, `images` the one that the user named.

    A picture is taken from below `images`, else from below the folder that holds `own`; of a name that leads elsewhere
    nothing is opened, unless names may lead `anywhere`.
    """

    def __init__(
        self, own: Path, folders: Sequence[Path] = (), images: str | Path | None = None, anywhere: bool = False
    ) -> None:
        self.own, self.anywhere = own, anywhere
        self.images = None if images is None else Path(images)
        self.folders = [*folders] or [self.images or own]
        self.root = Path(os.path.abspath(self.images or own.absolute().parent))
        self._names: dict[Path, dict[str, list[str]]] = {}
        self._stems: dict[Path, dict[str, list[str]]] = {}
        self._below: dict[str, list[Path]] | None = None

    def picture(self, name: str, where: str, folders: Sequence[Path] = ()) -> Path:
        """Where a picture is; the first guess where it is missing. ValueError where the name leads out of the set.

        `folders` are searched before the lookup's own.
        """
        return self.existing(name, where, folders) or (folders or self.folders)[0] / (PurePosixPath(name).name or "x")

    def existing(self, name: str, where: str, folders: Sequence[Path] = ()) -> Path | None:
        """The picture of this name, None where it is missing."""
        check_name(name, where)
        places = [*folders, *self.folders]
        for spelled in dict.fromkeys((name, name.replace("\\", "/"))):
            for folder in places:
                guess = folder / spelled
                if os.path.isfile(guess):
                    return self._allowed(guess, name, where)
        parts = [part for part in re.split(r"[\\/]+", name) if part not in ("", ".")]
        if ".." not in parts and not os.path.isabs(name):
            for folder in places:
                found = self.spelled(folder, parts)
                if found is not None:
                    return found
        return self._by_end(parts)

    def of_stem(self, folder: Path, stem: str, where: str = "") -> Path | None:
        """The one picture in a folder with this stem, whatever its suffix; ValueError where two have it."""
        stems = self._stems_of(folder)
        wanted = fold(stem)
        bare = _UPLOAD.sub("", wanted)
        keys = (wanted, bare if bare != wanted else f"*{wanted}")
        found = stems.get(f"={stem}") or [name for key in keys for name in stems.get(key, ())]
        if len(found) > 1:
            first, second, *_ = sorted(found)
            raise ValueError(f"{where or folder}: {stem} may be {first} or {second}; rename one of them")
        return folder / found[0] if found else None

    def _stems_of(self, folder: Path) -> dict[str, list[str]]:
        """Stems of a folder's pictures -> their names: `=` and the stem as written, folded, `*` and without digits."""
        if folder not in self._stems:
            stems: dict[str, list[str]] = {}
            for name in dict.fromkeys(name for names in self._listing(folder).values() for name in names):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in PICTURES:
                    folded = fold(stem)
                    keys = [f"={stem}", folded]
                    keys += [f"*{_UPLOAD.sub('', folded)}"] if _UPLOAD.match(folded) else []
                    for key in keys:
                        stems.setdefault(key, []).append(name)
            self._stems[folder] = stems
        return self._stems[folder]

    def spelled(self, folder: Path, parts: Sequence[str]) -> Path | None:
        """The one file below a folder at this path, each part as written or else spelled otherwise."""
        here = folder
        for part in parts:
            if not os.path.exists(here / part):
                fits = self._fits(here, part)
                if len(fits) != 1:
                    return None
                part = fits[0]
            here = here / part
        return here if os.path.isfile(here) else None

    def _fits(self, folder: Path, name: str) -> list[str]:
        listing = self._listing(folder)
        wanted = fold(name)
        bare = _UPLOAD.sub("", wanted)
        fits = [*listing.get(wanted, ()), *(listing.get(bare, ()) if bare != wanted else ())]
        prefixed = [n for n in listing.get(f"*{wanted}", ()) if n not in fits] if bare == wanted else []
        return [*fits, *prefixed]

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """Folded name -> the names of a folder; under `*` and the rest those that bear an upload's digits."""
        if folder not in self._names:
            listing: dict[str, list[str]] = {}
            try:
                names = [name for name in sorted(os.listdir(folder)) if not is_litter(name)]
            except OSError:
                names = []
            for name in names:
                folded = fold(name)
                listing.setdefault(folded, []).append(name)
                if _UPLOAD.match(folded):
                    listing.setdefault(f"*{_UPLOAD.sub('', folded)}", []).append(name)
            self._names[folder] = listing
        return self._names[folder]

    def _by_end(self, parts: Sequence[str]) -> Path | None:
        """The one file below the labels' folder (or the named one) whose path ends most like this."""
        if self._below is None:
            self._below = {}
            tops = dict.fromkeys(Path(os.path.abspath(p)) for p in (self.images or self.own, *self.folders))
            tops = dict.fromkeys(p for p in tops if p == self.root or self.root in p.parents)
            if self.images is None:
                tops.pop(self.root, None)
            for place in dict.fromkeys(place for top in tops for place in _walk(top, True)):
                name = fold(os.path.basename(place))
                for key in (name, f"*{_UPLOAD.sub('', name)}") if _UPLOAD.match(name) else (name,):
                    self._below.setdefault(key, []).append(Path(place))
        folded = [fold(part) for part in parts if part != ".."]
        if not folded:
            return None
        bare = _UPLOAD.sub("", folded[-1])
        keys = (folded[-1], bare if bare != folded[-1] else f"*{folded[-1]}")
        found = next((self._below[key] for key in keys if key in self._below), [])
        best: list[Path] = []
        longest = 0
        for path in found:
            theirs = [fold(part) for part in path.parts]
            same = 1  # the name itself, with or without an upload's digits
            while same < len(folded) and same < len(theirs) and folded[-1 - same] == theirs[-1 - same]:
                same += 1
            if same >= longest:
                best, longest = [*(best if same == longest else []), path], same
        return best[0] if len(best) == 1 else None

    def _allowed(self, path: Path, name: str, where: str) -> Path:
        """The path, where it lies in the set."""
        if self.anywhere:
            return path
        place = os.path.abspath(path)
        if place == str(self.root) or place.startswith(str(self.root).rstrip(os.sep) + os.sep):
            return Path(place) if ".." in path.parts else path
        raise ValueError(
            f"{where}: names a picture outside the set, {brief(name)}; name its folder with --images to take it"
        )


def check_name(name: str, where: str) -> None:
    """Refuse what can be no file's name."""
    if "\0" in name or not name.strip() or len(name) > 4096:
        raise ValueError(f"{where}: expected a file's name, got {brief(name)}")


def place_of(entry: str, root: Path, within: Path) -> Path | None:
    """The folder or list that a data set's card names: as written, else by its end below `root`.

    The parts that name the split are never dropped: test/images of a set without it is not images/.
    """
    parts = [part for part in re.split(r"[\\/]+", entry) if part not in ("", ".", "..")]
    written = Path(os.path.abspath(root / entry.replace("\\", "/"))) if entry.strip() and "\0" not in entry else root
    inside = within == written or within in written.parents
    if inside and os.path.exists(written) and (parts or entry.strip(". /\\") == ""):
        return root / entry.replace("\\", "/") if ".." not in entry else written
    for skipped in range(len(parts)):
        if any(part.casefold() in SPLIT_WORDS for part in parts[:skipped]):
            break
        guess = root.joinpath(*parts[skipped:])
        if "\0" not in entry and os.path.exists(guess):
            return guess
    return None
