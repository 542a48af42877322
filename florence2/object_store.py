"""Objects by URL, `s3://bucket/key`: read, written if absent, listed, deleted. The one home of the client, boto3.

Credentials, region and endpoint come from the usual AWS variables and files (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
A server must honour `If-None-Match: *` on a put, as S3, MinIO, Ceph and R2 do. What goes wrong is an OSError that
names the object. Each process has a client of its own, which its threads share.
"""

from __future__ import annotations

import errno
import io
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar, cast

SCHEME = "s3://"
_URL = re.compile(r"s3:/{1,2}(?=[^/])")  # a Path has made one slash of two
THREADS = 16  # requests at once
ABSENT = ("NoSuchKey", "404", "NotFound")
TAKEN = ("PreconditionFailed", "412")
CONFLICT = ("ConditionalRequestConflict", "409", "OperationAborted")  # of two puts at once: ask again
CONFLICTS = 60  # times in a row, a second apart at the most
ONE_OBJECT = ("AccessDenied", "403", "InvalidObjectState", "InvalidRange", "416", "MethodNotAllowed", "405")
BUSY = ("SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "429", "RequestTimeout")
ATTEMPTS = 6  # of the client at a request that is not answered, together some 15 s
PATIENCE_S = 60.0  # beyond these, with a store that has answered before; less than the least lease of a worker
CONNECT_S = 10.0
READ_AHEAD = 64 << 10  # bytes: the headers of small members of a tar come in one request
DELETED_AT_ONCE = 1000  # keys of one request

_clients: dict[int, Any] = {}
_answered: set[int] = set()  # processes, this one and those it was forked from
R = TypeVar("R")
_lock = threading.Lock()


class ObjectFacts(NamedTuple):
    """What a listing says of an object."""

    path: str
    """Below the prefix that was listed."""
    size: int
    tag: str
    """Another one where the object was written anew."""
    modified: float
    """Seconds since 1970."""


class NoAnswer(OSError):
    """The object store is not reached, or refuses all that is asked: it says nothing of the object."""


class OutOfReach(NoAnswer):
    """It may answer soon: a connection that failed, too many requests, a fault of the server."""


class ObjectTooLarge(ValueError):
    """An object of more bytes than are asked for."""


class ObjectUrl(PurePosixPath):
    """A URL where a path is expected: it keeps both its slashes, and is joined as paths are."""

    def __str__(self) -> str:
        return _URL.sub(SCHEME, super().__str__(), count=1)

    def __fspath__(self) -> str:
        return str(self)


def is_object_url(place: Any) -> bool:
    """Whether a place is named by an `s3://` URL, also by one that has been a Path."""
    return _URL.match(str(place)) is not None


def url_of(place: Any) -> str:
    """The URL as it was written, without a slash at its end."""
    return _URL.sub(SCHEME, str(place), count=1).rstrip("/")


def root_of(place: Any) -> Path:
    """A place as a path: of an object store one that is written as its URL, and is no file's."""
    return cast(Path, ObjectUrl(place)) if is_object_url(place) else Path(place)


class Objects:
    """The objects below a URL, by their paths relative to it."""

    def __init__(self, place: Any) -> None:
        self.url = url_of(place)
        bucket, _, prefix = self.url.removeprefix(SCHEME).partition("/")
        if not bucket:
            raise ValueError(f"{place}: expected s3://BUCKET/PREFIX")
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""

    def key(self, path: str) -> str:
        """The whole key of a path."""
        return self.prefix + path if path else self.prefix.rstrip("/")

    def location(self, path: str = "") -> str:
        """The URL of a path."""
        return f"{self.url}/{path}" if path else self.url

    def get(self, path: str = "", start: int = 0, length: int = -1, most: int = -1) -> bytes:
        """The bytes of an object, or `length` of them from `start` on; FileNotFoundError where there is none.

        ObjectTooLarge where they are more than `most`.
        """
        more = (
            {} if length < 0 and not start else {"Range": f"bytes={start}-{start + length - 1 if length >= 0 else ''}"}
        )

        def whole(client: Any) -> bytes:
            found = client.get_object(Bucket=self.bucket, Key=self.key(path), **more)
            if 0 <= most < found["ContentLength"]:
                found["Body"].close()
                raise ObjectTooLarge(f"has {found['ContentLength']:,} bytes, over the limit of {most:,}")
            data: bytes = found["Body"].read()  # the client's own attempts end with the first byte
            return data

        return self._asked(path, whole)

    def put(self, path: str, data: bytes) -> None:
        """Write an object over what its name holds."""
        self._asked(path, lambda client: client.put_object(Bucket=self.bucket, Key=self.key(path), Body=data))

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write an object unless its name is taken; of several writers of one name exactly one is told True."""
        import botocore.exceptions

        named: dict[str, Any] = {"Bucket": self.bucket, "Key": self.key(path), "IfNoneMatch": "*"}
        for tried in range(1, CONFLICTS + 1):
            try:
                self._asked(path, lambda client: client.put_object(Body=data, **named))
                return True
            except FileExistsError:
                return False
            except BlockingIOError:  # another put of the name is under way
                if tried == CONFLICTS:
                    raise
                _pause(tried, most_s=1.0)
            except botocore.exceptions.ParamValidationError as error:
                raise ValueError(f"{self.location(path)}: {error}; boto3 1.35.69 or later is needed") from None
        raise AssertionError

    def facts(self, path: str = "") -> ObjectFacts | None:
        """What is known of an object without reading it; None where there is none."""
        try:
            head = self._asked(path, lambda client: client.head_object(Bucket=self.bucket, Key=self.key(path)))
        except FileNotFoundError:
            return None
        return ObjectFacts(path, head["ContentLength"], head["ETag"].strip('"'), head["LastModified"].timestamp())

    def list(self, folder: str = "", below: bool = True) -> Iterator[ObjectFacts]:
        """Every object below a folder, by name; without `below` those directly in it."""
        wanted: dict[str, Any] = {"Bucket": self.bucket, "Prefix": self.prefix + (f"{folder}/" if folder else "")}
        wanted |= {} if below else {"Delimiter": "/"}
        while True:
            page = self._asked(folder, lambda client: client.list_objects_v2(**wanted))
            for row in page.get("Contents", ()):
                path = row["Key"].removeprefix(self.prefix)
                yield ObjectFacts(path, row["Size"], row["ETag"].strip('"'), row["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            wanted["ContinuationToken"] = page["NextContinuationToken"]

    def copy(self, path: str, target: str) -> None:
        """Copy an object; FileNotFoundError where there is none."""
        named = {"Bucket": self.bucket, "Key": self.key(target)}
        source = {"Bucket": self.bucket, "Key": self.key(path)}
        self._asked(path, lambda client: client.copy_object(CopySource=source, **named))

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects; one that is not there is no error."""
        for start in range(0, len(paths), DELETED_AT_ONCE):
            self._delete_at_once(paths[start : start + DELETED_AT_ONCE])

    def _delete_at_once(self, paths: Sequence[str]) -> None:
        named = {"Objects": [{"Key": self.key(path)} for path in paths], "Quiet": True}
        self._asked(paths[0], lambda client: client.delete_objects(Bucket=self.bucket, Delete=named))

    def _asked(self, path: str, request: Callable[[Any], R]) -> R:
        """What a request gives. One that is not answered is made again for a while, where others were answered before.

        An endpoint that never answered is named wrongly, or is not there, and is not waited for.
        """
        tried, end = 0, math.inf
        while True:
            try:
                with self._explained(path):
                    found = request(self._client())
            except OutOfReach:
                end = min(end, time.monotonic() + PATIENCE_S)
                if os.getpid() not in _answered or time.monotonic() >= end:
                    raise
                tried += 1
                _pause(tried)
            else:
                _answered.add(os.getpid())
                return found

    def _client(self) -> Any:
        with _lock:
            if os.getpid() not in _clients:
                _clients.clear()  # a fork has its parent's
                _clients[os.getpid()] = _new_client()
            return _clients[os.getpid()]

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """Around a request: its failure is an OSError that names the object; NoAnswer where it is not the object's."""
        import botocore.exceptions

        try:
            yield
        except botocore.exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            where = self.location(path)
            if code in ABSENT:
                raise FileNotFoundError(errno.ENOENT, "does not exist", where) from None
            if code in TAKEN:
                raise FileExistsError(errno.EEXIST, "is there already", where) from None
            if code in CONFLICT:
                raise BlockingIOError(errno.EAGAIN, "is being written", where) from None
            what = error.response.get("Error", {}).get("Message", "") or code
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            kind = OutOfReach if status >= 500 or code in BUSY else OSError if code in ONE_OBJECT else NoAnswer
            raise kind(errno.EIO, f"refused by the object store ({code}: {what})", where) from None
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError):
            what = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
            raise NoAnswer(errno.EACCES, what, self.location(path)) from None
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.HTTPClientError) as error:
            text = " ".join(str(error).split())[:200]
            raise OutOfReach(errno.EIO, f"the object store gives no answer ({text})", self.location(path)) from None


class ObjectFile(io.RawIOBase):
    """An object as a file that is read in ranges, each a request; FileNotFoundError where there is none."""

    def __init__(self, place: Any) -> None:
        self._objects = Objects(place)
        facts = self._objects.facts()
        if facts is None:
            raise FileNotFoundError(errno.ENOENT, "does not exist", self._objects.url)
        self.facts = facts
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where it is read next."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Read next from there."""
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.facts.size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with what follows; how much that is."""
        length = min(len(buffer), self.facts.size - self._at)
        if length <= 0:
            return 0
        data = self._objects.get("", self._at, length)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def buffered_object(place: Any) -> io.BufferedReader:
    """An object as a file of which small stretches that lie together are read at once."""
    return io.BufferedReader(ObjectFile(place), READ_AHEAD)


def _pause(tried: int, most_s: float = 10.0) -> None:
    """Wait before a request is made again, longer each time, and not as long as others do."""
    time.sleep(random.uniform(0.5, 1.0) * min(most_s, 0.1 * 2.0 ** min(tried, 10)))


def _new_client() -> Any:
    import boto3
    import botocore.config
    import botocore.handlers

    config = botocore.config.Config(
        retries={"mode": "standard", "max_attempts": ATTEMPTS},
        max_pool_connections=2 * THREADS,
        connect_timeout=CONNECT_S,
        request_checksum_calculation="when_required",  # servers that are only compatible know few checksums
        response_checksum_validation="when_required",
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    client = boto3.session.Session().client("s3", config=config, region_name=region)
    # to wait for leave to send costs a round trip, and some servers never give it
    client.meta.events.unregister("before-call.s3.PutObject", botocore.handlers.add_expect_header)
    return client
