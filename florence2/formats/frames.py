"""The frame that labels were drawn in, and the upright picture's: reconciled in one place for all formats.

A label file's size may differ from its picture's: the picture was made smaller since, or the file states the size as it
is stored, before EXIF turns it. Boxes drawn in the unturned frame are turned, but only where they show that they were:
there are tools that write the unturned size beside upright boxes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence2 import geometry, pixels
from florence2.formats.problems import LostObjects, picture_key
from florence2.records import Box, ImageRef, Polygon, Region

ROUNDING = 1.0  # pixels by which a stated size may be off
FARTHEST = 1_000_000  # pixels from a picture's corner: a place beyond is none
Point = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Frame:
    """A picture with the size that its labels state: `size_wh` of the upright picture, 0 where neither is known."""

    picture: Path
    where: str
    size_wh: tuple[int, int]
    stated_wh: tuple[int, int]
    orientation: int = 1
    misfit: bool = False  # the labels were drawn on a picture of another form: no place of theirs is one of this

    @classmethod
    def of(cls, picture: Path, stated_wh: tuple[int, int], where: str) -> Frame:
        """The frame of a picture file; where it is missing or damaged, the size that the labels state is used."""
        stated_wh = stated_wh if all(stated_wh) else (0, 0)
        if not picture.is_file():
            return cls(picture, where, stated_wh, stated_wh)
        try:
            size_wh = pixels.read_size(picture)
            turned = stated_wh == size_wh[::-1] != size_wh
            return cls(picture, where, size_wh, stated_wh, pixels.read_orientation(picture) if turned else 1)
        except pixels.BadImage:
            return cls(picture, where, stated_wh, stated_wh)  # whoever opens it names the reason

    @property
    def same(self) -> bool:
        """Whether labels and picture agree, or one of them states nothing."""
        return self.stated_wh in (self.size_wh, (0, 0))

    @property
    def scaled(self) -> bool:
        """Whether the picture has the proportions of the stated size, to a pixel."""
        (w, h), (stated_w, stated_h) = self.size_wh, self.stated_wh
        by_width, by_height = w / stated_w, h / stated_h
        return abs(stated_h * by_width - h) <= ROUNDING or abs(stated_w * by_height - w) <= ROUNDING

    def check_proportions(self) -> None:
        """For places in shares of the picture: ValueError where the labels were drawn on one of another form."""
        if not self.same and not self.scaled:
            raise self.unlike()

    def unlike(self) -> ValueError:
        """Both sizes, named."""
        (w, h), (stated_w, stated_h) = self.size_wh, self.stated_wh
        turns = " once EXIF has turned it" if self.orientation >= 5 else ""
        return ValueError(
            f"{self.where}: states {stated_w} x {stated_h} for {self.picture.name}, which is {w} x {h}{turns}; its "
            "boxes cannot be placed: correct the size, or label the picture as it is now"
        )

    def in_shares(self) -> Frame:
        """The frame of places that are shares of the picture as it is seen: they state no other size."""
        return dataclasses.replace(self, stated_wh=self.size_wh)

    def image(self, name: str, licence: str = "") -> ImageRef:
        """The reference to the picture."""
        width, height = self.size_wh
        return ImageRef(id=name, uri=str(self.picture), width=width, height=height, licence=licence)

    def place(self, regions: Sequence[tuple[str, Region]], lost: LostObjects) -> tuple[Region, ...]:
        """Regions, each with the place of its record, in the frame of the upright picture.

        One that lies wholly outside or is inside out is refused; of one whose mask is of another size the box stays.
        """
        lost.on(picture_key(str(self.picture)))
        if not regions:
            return ()
        try:
            move = self._move([region.box for _, region in regions if region.box is not None])
        except ValueError as error:
            lost.refuse(error)
            return ()
        out = []
        for where, region in regions:
            with lost.object(region.label):
                out.append(self._placed(region, where, move, lost))
        return tuple(out)

    def _move(self, boxes: Sequence[Box]) -> Point | None:
        """How a stated point moves; None where it stays."""
        if self.stated_wh == (0, 0):
            return self._turn_that_shows(boxes)
        if self.same:
            return None
        if self.orientation >= 5:
            as_stored, upright = (all(_fits(box, size) for box in boxes) for size in (self.stated_wh, self.size_wh))
            if upright and not as_stored:
                return None
            if as_stored and not upright:
                return _turn(self.orientation, self.stated_wh)
            raise self.unlike()
        if not self.scaled:
            raise self.unlike()
        across, down = (side / stated for side, stated in zip(self.size_wh, self.stated_wh))
        return lambda x, y: (x * across, y * down)

    def _turn_that_shows(self, boxes: Sequence[Box]) -> Point | None:
        """Where no size is stated: EXIF's turn, if the boxes fit the picture as it is stored and not as it is seen."""
        stored_wh = self.size_wh[::-1]
        if not all(stored_wh) or all(_fits(box, self.size_wh) for box in boxes):
            return None
        if not all(_fits(box, stored_wh) for box in boxes):
            return None
        orientation = pixels.read_orientation(self.picture)
        return _turn(orientation, stored_wh) if orientation >= 5 else None

    def _placed(self, region: Region, where: str, move: Point | None, lost: LostObjects) -> Region:
        box = region.box
        if max((abs(v) for part in (box or (), region.quad, *region.polygons) for v in part), default=0) > FARTHEST:
            raise ValueError(f"{where}: lies farther out than any picture reaches ({FARTHEST:,} pixels)")
        if box is not None and (box[2] < box[0] or box[3] < box[1]):
            corners = ", ".join(f"{v:g}" for v in box)
            raise ValueError(f"{where}: box ({corners}) is inside out; expected left, top, right, bottom")
        if region.mask is not None:
            size = (region.mask.width, region.mask.height)
            wanted = self.size_wh if all(self.size_wh) else size
            if move is not None or size != wanted:
                lost.part(
                    ValueError(
                        f"{where}: its mask is of a picture of {size[0]} x {size[1]}, {self.picture.name} is "
                        f"{wanted[0]} x {wanted[1]}; the mask is not taken"
                    )
                )
                region = dataclasses.replace(region, mask=None)
        if move is not None:
            region = moved(region, move)
        if region.box is not None and all(self.size_wh) and _outside(region.box, self.size_wh):
            corners = ", ".join(f"{v:g}" for v in region.box)
            raise ValueError(
                f"{where}: box ({corners}) lies outside its picture of {self.size_wh[0]} x {self.size_wh[1]}"
            )
        return region


def moved(region: Region, move: Point) -> Region:
    """The region with each of its points moved; its mask is dropped."""
    box = region.box
    if box is not None:
        box = geometry.polygon_box(_points(geometry.box_quad(box), move))
    return dataclasses.replace(
        region,
        box=box,
        quad=_points(region.quad, move),
        polygons=tuple(_points(part, move) for part in region.polygons),
        mask=None,
    )


def _points(flat: Polygon, move: Point) -> Polygon:
    return tuple(v for x, y in zip(flat[::2], flat[1::2]) for v in move(x, y))


def _turn(orientation: int, stored_wh: tuple[int, int]) -> Point:
    """Where EXIF puts a stored point, for the orientations that swap the sides."""
    width, height = stored_wh
    return {
        5: lambda x, y: (y, x),
        6: lambda x, y: (height - y, x),
        7: lambda x, y: (height - y, width - x),
        8: lambda x, y: (y, width - x),
    }[orientation]


def _fits(box: Box, size_wh: tuple[int, int]) -> bool:
    x1, y1, x2, y2 = box
    return x1 >= -ROUNDING and y1 >= -ROUNDING and x2 <= size_wh[0] + ROUNDING and y2 <= size_wh[1] + ROUNDING


def _outside(box: Box, size_wh: tuple[int, int]) -> bool:
    x1, y1, x2, y2 = box
    spans = ((x1, x2, size_wh[0]), (y1, y2, size_wh[1]))  # one without a width at the very edge is flat, not outside
    return any((low >= side and high > side) or (high <= 0 and low < 0) for low, high, side in spans)
