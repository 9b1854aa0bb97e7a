"""S3 through boto3: one client a process, errors that say what to check, reads that survive broken connections.

Endpoint, region and credentials come from boto3's usual chain alone (environment, ~/.aws, the machine's role).
"""

import functools
import io
import os
import re
import time
from typing import Any, BinaryIO, NamedTuple

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    HTTPClientError,
    NoCredentialsError,
    ReadTimeoutError,
)

from common.errors import UserError

SCHEME = "s3://"
CHUNK = 4 << 20  # bytes that a file opened for reading fetches at once
ATTEMPTS = 8  # of a request, with growing pauses; a body that breaks off counts too
CONNECTIONS = 64
LONGEST_PAUSE = 10.0  # seconds
PERMISSIONS = {  # that an operation needs
    "ListObjectsV2": "s3:ListBucket",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
}
CREDENTIALS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE or the machine's role"
ABSENT = {"404", "NoSuchKey", "NotFound"}
ARCHIVED = "InvalidObjectState"
PRECONDITION = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
UNKNOWN_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthFailure"}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
ELSEWHERE = {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


class S3Error(UserError):
    """A request that failed for good. The message names the object, the call, the endpoint and what to check."""


class Archived(S3Error):
    """An object that lies in an archive, from which its owner must restore it before anybody can read it."""


class ConditionFailed(Exception):
    """`IfNoneMatch` or `IfMatch` does not hold: the object exists, or it is another one."""


class S3Location(NamedTuple):
    """A bucket, and a key or the beginning of keys in it."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"


def parse_location(location: str) -> S3Location:
    """`s3://bucket/some/prefix` -> bucket and prefix, without slashes around it. Raises UserError."""
    bucket, _, key = location.removeprefix(SCHEME).partition("/")
    if not location.startswith(SCHEME) or not bucket:
        raise UserError(f"{location}: expected s3://BUCKET/PREFIX")
    if "@" in bucket:  # do not repeat what may be a secret
        raise UserError(f"expected s3://BUCKET/PREFIX, found an @ in the bucket's name; credentials: set {CREDENTIALS}")
    return S3Location(bucket, key.strip("/"))


@functools.cache
def get_client(patient: bool = True) -> Any:
    """This process's client (threads may share it). An impatient one finds out within a minute that nobody answers."""
    core = botocore.session.get_session()
    # nobody asks when an object was written: unread, a page of a listing takes 27 instead of 65 ms
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    session = boto3.Session(botocore_session=core)
    timeouts = {"connect_timeout": 10, "read_timeout": 30} if patient else {"connect_timeout": 5, "read_timeout": 8}
    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS if patient else 3},
        max_pool_connections=CONNECTIONS,
        # other makers' stores do not all know AWS's trailing checksums; Content-MD5 they all check
        request_checksum_calculation="when_required",
        **timeouts,
    )
    try:
        made = session.client("s3", config=config, **_region(session))
        if "amazonaws.com" in made.meta.endpoint_url or _chosen_style(session):
            return made
        # other makers' stores seldom have a host name for each bucket
        return session.client("s3", config=config.merge(Config(s3={"addressing_style": "path"})), **_region(session))
    except (BotoCoreError, ValueError) as error:
        raise S3Error(
            f"S3 cannot be used: {error}; check AWS_ENDPOINT_URL, AWS_PROFILE and AWS_DEFAULT_REGION"
        ) from None


os.register_at_fork(
    after_in_child=get_client.cache_clear
)  # a connection that two processes read mixes up their answers


def _region(session: boto3.Session) -> dict[str, str]:
    """boto3 knows only AWS_DEFAULT_REGION; other makers' stores need a region for the signature alone."""
    return {} if session.region_name else {"region_name": os.environ.get("AWS_REGION", "us-east-1")}


def _chosen_style(session: boto3.Session) -> str | None:
    """`s3.addressing_style` of the user's AWS configuration."""
    return (session._session.get_scoped_config().get("s3") or {}).get("addressing_style")


def call(operation: str, place: S3Location, patient: bool = True, /, **arguments: Any) -> dict[str, Any]:
    """Carry out an operation on an object or, for ListObjectsV2, on a bucket.

    Raises FileNotFoundError where there is no such object, ConditionFailed, Archived, S3Error.
    """
    if operation != "ListObjectsV2":
        arguments["Key"] = place.key
    made = get_client(patient)
    method = getattr(made, "".join(f"_{c.lower()}" if c.isupper() else c for c in operation).strip("_"))
    try:
        answer: dict[str, Any] = method(Bucket=place.bucket, **arguments)
        return answer
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in ABSENT:
            raise FileNotFoundError(f"{place}: there is no such object at {_endpoint(made)}") from None
        if code in PRECONDITION:
            raise ConditionFailed(str(place)) from None
        if code == ARCHIVED:
            raise Archived(f"{place}: lies in an archive (S3 Glacier): restore it first") from None
        raise S3Error(_told(error, operation, place, made)) from None
    except (BotoCoreError, ValueError) as error:
        raise S3Error(_told(error, operation, place, made)) from None


def _told(error: Exception, operation: str, place: S3Location, made: Any) -> str:
    found, advice = _finding(error), _advice(error, operation)
    return f"{place}: {operation} at {_endpoint(made)} failed: {found}. {advice}"


def _endpoint(made: Any) -> str:
    """Without a user and password that somebody may have put into it."""
    return re.sub("//[^/]*@", "//", made.meta.endpoint_url)


def _finding(error: Exception) -> str:
    if isinstance(error, ClientError):
        answer = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "no status")
        return f"{answer.get('Code', 'unknown error')} ({status}) {answer.get('Message', '')}".strip().rstrip(".")
    return " ".join(str(error).split()).rstrip(".")


def _advice(error: Exception, operation: str) -> str:
    """What to check."""
    code = str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
    if code == "NoSuchBucket":
        return "Check the bucket's name, and AWS_ENDPOINT_URL and AWS_DEFAULT_REGION, which say what store has it"
    if code in UNKNOWN_KEYS:
        return f"These credentials are not this endpoint's: check {CREDENTIALS}, and AWS_ENDPOINT_URL"
    if code in EXPIRED:
        return "The credentials have expired: renew them and run the same command again to go on"
    if code in ELSEWHERE:
        return "The bucket is in another region: set AWS_DEFAULT_REGION"
    if code in ("403", "AccessDenied", "Forbidden", "AllAccessDisabled", "AccountProblem"):
        needed = PERMISSIONS.get(operation, "this")
        hint = " (S3 says so of absent objects too, where s3:ListBucket is not granted)" if "Get" in needed else ""
        return f"The credentials do not grant {needed}{hint}: check the policies of the user and of the bucket"
    if code == "RequestTimeTooSkewed":
        return "Set this machine's clock"
    if isinstance(error, NoCredentialsError):
        return f"Set {CREDENTIALS}"
    if isinstance(error, ReadTimeoutError | ConnectTimeoutError | ConnectionError | HTTPClientError):
        return "Check AWS_ENDPOINT_URL, the network and that the store is up; then run the same command again to go on"
    if isinstance(error, ClientError):
        return "If it persists, ask those who run the store; the same command again goes on"
    return "Check AWS_ENDPOINT_URL, AWS_PROFILE and AWS_DEFAULT_REGION"


def get(place: S3Location, **arguments: Any) -> tuple[bytes, str]:
    """An object's bytes (or those of `Range`) and its ETag. A body that breaks off is asked for again.

    Raises FileNotFoundError, ConditionFailed, S3Error.
    """
    for attempt in range(1, ATTEMPTS + 1):
        answer = call("GetObject", place, **arguments)
        try:
            return answer["Body"].read(), answer.get("ETag", "")
        except BotoCoreError as error:  # what a stream raises: timeouts, resets, fewer bytes than were announced
            if attempt == ATTEMPTS:
                raise S3Error(_told(error, "GetObject", place, get_client())) from None
        time.sleep(backoff(attempt))
    raise AssertionError("unreachable")


def get_range(place: S3Location, start: int, length: int, **arguments: Any) -> bytes:
    """So many bytes from `start` on; fewer only where the object ends before."""
    if length <= 0:
        return b""
    try:
        return get(place, Range=f"bytes={start}-{start + length - 1}", **arguments)[0]
    except S3Error as error:
        if "InvalidRange" in str(error) or "(416)" in str(error):
            return b""
        raise


def backoff(attempt: int) -> float:
    """Seconds before attempt `attempt + 1`: doubled each time, and never the same for two processes."""
    return min(LONGEST_PAUSE, 0.1 * 2**attempt) * (0.5 + os.urandom(1)[0] / 512)


def list_page(place: S3Location, token: str = "", delimiter: str = "") -> dict[str, Any]:
    """A page of a listing: keys that begin with the place's key, all or only down to the next `delimiter`."""
    after = {"ContinuationToken": token} if token else {}
    return call("ListObjectsV2", place, Prefix=place.key, Delimiter=delimiter, **after)


class RangeReader(io.RawIOBase):
    """An object as a raw, seekable file: each read is one ranged request, all of the same version of the object."""

    def __init__(self, place: S3Location) -> None:
        head = call("HeadObject", place)
        self.place, self.size, self.etag, self.position = place, int(head["ContentLength"]), head["ETag"], 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self.size - self.position)
        if length <= 0:
            return 0
        try:
            content = get_range(self.place, self.position, length, IfMatch=self.etag)
        except ConditionFailed:
            raise S3Error(f"{self.place}: was replaced while it was read; run the same command again") from None
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def check_reachable(place: S3Location) -> None:
    """Find out within a minute whether the bucket can be listed. Raises S3Error, or UserError where it is absent."""
    try:
        call("ListObjectsV2", place, False, Prefix=place.key, MaxKeys=1)
    except FileNotFoundError as error:  # a store that says 404 and nothing more
        raise S3Error(f"{error}. Check the bucket's name and AWS_ENDPOINT_URL") from None


def open_object(place: S3Location) -> BinaryIO:
    """An object for reading, seekable, fetched in chunks. Raises FileNotFoundError, S3Error."""
    return io.BufferedReader(RangeReader(place), CHUNK)
