"""Boxes, polygons and masks as numpy arrays. Knows no record but `Rle` and `Region`, no picture and no file.

A box is x1, y1, x2, y2 in float pixels; many are an (N, 4) array. A polygon is flat x, y, x, y, ...; a mask is (H, W)
bool.
"""

from florence2.geometry.boxes import area, as_boxes, box_area, clip, intersection, iou, nms, ordered, soft_nms
from florence2.geometry.neighbours import neighbours
from florence2.geometry.outlines import mask_polygons
from florence2.geometry.polygons import (
    box_quad,
    clockwise,
    convex_area,
    convex_hull,
    points,
    polygon_area,
    polygon_box,
    quad_intersection,
    simplify,
)
from florence2.geometry.regions import region_box, region_quad
from florence2.geometry.rle import (
    decode_rle,
    encode_rle,
    pack_counts,
    rasterize,
    rle_area,
    rle_box,
    rle_counts,
    rle_from_polygons,
)

__all__ = [
    "area", "as_boxes", "box_area", "box_quad", "clip", "clockwise", "convex_area", "convex_hull", "decode_rle",
    "encode_rle", "intersection", "iou", "mask_polygons", "neighbours", "nms", "ordered", "pack_counts", "points",
    "polygon_area", "polygon_box", "quad_intersection", "rasterize", "region_box", "region_quad", "rle_area",
    "rle_box", "rle_counts", "rle_from_polygons", "simplify", "soft_nms",
]  # fmt: skip
