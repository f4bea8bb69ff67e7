"""Loaded by schemathesis: what values of this API's own string formats look like."""

import base64
import re
import uuid

import schemathesis
from hypothesis import strategies
from hypothesis.internal.conjecture.engine import ConjectureRunner

PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU"
    b"\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"
)
NAMES = ("start.jpg", "an image.png", "语.webp", "Runcomfy_Example_1259_1.png")

schemathesis.openapi.format(
    "image-reference",
    strategies.sampled_from([*NAMES, "data:image/png;base64," + base64.b64encode(PNG).decode()]),
)
schemathesis.openapi.format(
    "webhook-url", strategies.sampled_from(["http://127.0.0.1:9/hook", "https://127.0.0.1:9/?a=b"])
)
schemathesis.openapi.format("idempotency-key", strategies.builds(lambda: str(uuid.uuid4())))
schemathesis.openapi.format("image-file", strategies.just(PNG))

# No search for inputs that the API accepts more often, which schemathesis has hypothesis do: it took half the time.
ConjectureRunner.should_optimise = False

VALID_KEY = re.compile(r"[\x21-\x7e]{1,255}")
LAST_KEYFRAME, HIGHEST_KEYFRAME = 78, 136  # of 81 frames, and what the schema takes


@schemathesis.hook
def before_call(context, case, kwargs):
    """Make valid what a schema cannot say: a new idempotency key for each body, a keyframe inside the video."""
    frame = case.body.get("61_frames") if isinstance(case.body, dict) else None
    if isinstance(frame, (int, float)) and LAST_KEYFRAME < frame <= HIGHEST_KEYFRAME:
        case.body["61_frames"] = LAST_KEYFRAME
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and VALID_KEY.fullmatch(key):
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
