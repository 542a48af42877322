"""Pictures for generated requests: without them every one would be refused for its picture."""

import base64
import json
import os

import schemathesis
from hypothesis import strategies

from florence2.pixels import encode
from florence2.scenes import draw

PICTURES = [base64.b64encode(encode(draw(2**31 + n)[0])).decode() for n in range(3)]

IDS = json.loads(os.environ.get("FLORENCE2_IMAGE_IDS", "[]"))  # of a store's pictures: no generated one is there


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Ask about pictures that there are."""
    if IDS and "image_id" in (path_parameters or {}):
        path_parameters["image_id"] = IDS[len(path_parameters["image_id"]) % len(IDS)]
    return path_parameters


@schemathesis.hook
def map_body(context, body):
    """Correct pictures that there are."""
    if IDS and isinstance(body, dict) and "person" in body:
        added = [one for one in body.get("changes", []) if one.get("verdict") == "added"]
        body = {
            "person": body["person"],
            "image_id": IDS[len(str(body)) % len(IDS)],
            "changes": added,
            "complete": ["cat"],
        }
    return body


schemathesis.openapi.format("image", strategies.sampled_from(PICTURES))
schemathesis.openapi.format("image-url", strategies.sampled_from([f"data:image/png;base64,{p}" for p in PICTURES]))
