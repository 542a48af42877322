"""Pictures for generated requests: without them every one would be refused for its picture."""

import base64

import schemathesis
from hypothesis import strategies

from florence2.pixels import encode
from florence2.scenes import draw

PICTURES = [base64.b64encode(encode(draw(2**31 + n)[0])).decode() for n in range(3)]

schemathesis.openapi.format("image", strategies.sampled_from(PICTURES))
schemathesis.openapi.format("image-url", strategies.sampled_from([f"data:image/png;base64,{p}" for p in PICTURES]))
