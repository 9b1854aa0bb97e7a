"""S3 requests through boto3: one client per process, errors that say what to check, retries of interrupted reads.

Endpoint, region and credentials come only from boto3's usual sources: the environment, ~/.aws or the machine's role.
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
from common.storage.attempts import backoff as backoff  # also for the other S3 modules
from common.storage.objects import RangeReader

SCHEME = "s3://"
READ_BUFFER_SIZE = 4 << 20  # bytes that a file opened for reading requests at once
MAX_ATTEMPTS = 8  # of a request, with growing pauses; reading the body of a response has as many
MAX_ATTEMPTS_IMPATIENT = 3  # of a request that checks whether the store answers
MAX_CONNECTIONS = 64
PERMISSIONS = {  # required by each operation
    "ListObjectsV2": "s3:ListBucket",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
}
CREDENTIALS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE or the machine's role"

# error codes of AWS and of other stores
NOT_FOUND = {"404", "NoSuchKey", "NotFound"}
ARCHIVED = "InvalidObjectState"
CONDITION_FAILED = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
UNKNOWN_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthFailure"}
EXPIRED_KEYS = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
ACCESS_DENIED = {"403", "AccessDenied", "Forbidden", "AllAccessDisabled", "AccountProblem"}
OTHER_REGION = {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


class S3Error(UserError):
    """A request that failed permanently. The message names the object, operation, endpoint and what to check."""


class ArchivedError(S3Error):
    """The object is in an archive, from which its owner must restore it before it can be read."""


class ConditionFailed(Exception):
    """`IfNoneMatch` or `IfMatch` of a request does not hold: the object exists, or has changed."""


class S3Location(NamedTuple):
    """A bucket, and a key or key prefix in it."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"


def parse_location(location: str) -> S3Location:
    """Split `s3://bucket/some/prefix` into bucket and prefix, without slashes around the prefix. Raises UserError."""
    bucket, _, key = location.removeprefix(SCHEME).partition("/")
    if not location.startswith(SCHEME) or not bucket:
        raise UserError(f"{location}: expected s3://BUCKET/PREFIX")
    if "@" in bucket:  # the message must not repeat what may be a secret
        raise UserError(f"expected s3://BUCKET/PREFIX, found an @ in the bucket's name; credentials: set {CREDENTIALS}")
    return S3Location(bucket, key.strip("/"))


@functools.cache
def get_client(patient: bool = True) -> Any:
    """Return this process's boto3 client, which threads may share.

    A client that is not `patient` reports within a minute that a store does not answer.
    """
    core = botocore.session.get_session()
    # modification times are not used: without parsing them, a page of a listing takes 27 instead of 65 ms
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    session = boto3.Session(botocore_session=core)
    timeouts = {"connect_timeout": 10, "read_timeout": 30} if patient else {"connect_timeout": 5, "read_timeout": 8}
    config = Config(
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS if patient else MAX_ATTEMPTS_IMPATIENT},
        max_pool_connections=MAX_CONNECTIONS,
        # some S3-compatible stores do not support AWS's trailing checksums; all of them check Content-MD5
        request_checksum_calculation="when_required",
        **timeouts,
    )
    try:
        client = session.client("s3", config=config, **_region(session))
        if "amazonaws.com" in client.meta.endpoint_url or _addressing_style(client):
            return client
        # S3-compatible stores rarely have a host name for each bucket
        return session.client("s3", config=config.merge(Config(s3={"addressing_style": "path"})), **_region(session))
    except (BotoCoreError, ValueError) as error:
        raise S3Error(
            f"S3 cannot be used: {error}; check AWS_ENDPOINT_URL, AWS_PROFILE and AWS_DEFAULT_REGION"
        ) from None


# two processes that share a connection receive each other's responses
os.register_at_fork(after_in_child=get_client.cache_clear)


def call(operation: str, location: S3Location, patient: bool = True, /, **arguments: Any) -> dict[str, Any]:
    """Perform an operation on an object or, for ListObjectsV2, on a bucket, and return the response.

    Raises FileNotFoundError if there is no such object; ConditionFailed, ArchivedError or S3Error.
    """
    if operation != "ListObjectsV2":
        arguments["Key"] = location.key
    client = get_client(patient)
    method = getattr(client, "".join(f"_{c.lower()}" if c.isupper() else c for c in operation).strip("_"))
    try:
        response: dict[str, Any] = method(Bucket=location.bucket, **arguments)
        return response
    except ClientError as error:
        code = _error_code(error)
        if code in NOT_FOUND:
            raise FileNotFoundError(f"{location}: there is no such object at {_endpoint(client)}") from None
        if code in CONDITION_FAILED:
            raise ConditionFailed(str(location)) from None
        if code == ARCHIVED:
            raise ArchivedError(f"{location}: is in an archive (S3 Glacier): restore it first") from None
        raise S3Error(_describe_failure(error, operation, location, client)) from None
    except (BotoCoreError, ValueError) as error:
        raise S3Error(_describe_failure(error, operation, location, client)) from None


def get(location: S3Location, **arguments: Any) -> tuple[bytes, str]:
    """Return an object's content (or its `Range`) and its ETag. A read that is interrupted is repeated.

    Raises FileNotFoundError, ConditionFailed, S3Error.
    """
    for attempt in range(1, MAX_ATTEMPTS + 1):
        response = call("GetObject", location, **arguments)
        try:
            return response["Body"].read(), response.get("ETag", "")
        except BotoCoreError as error:  # a timeout, a reset, or fewer bytes than announced
            if attempt == MAX_ATTEMPTS:
                raise S3Error(_describe_failure(error, "GetObject", location, get_client())) from None
        time.sleep(backoff(attempt))
    raise AssertionError("unreachable")


def get_range(location: S3Location, start: int, length: int, **arguments: Any) -> bytes:
    """Return `length` bytes from `start` on; fewer only if the object ends before. Raises like `get`."""
    if length <= 0:
        return b""
    try:
        return get(location, Range=f"bytes={start}-{start + length - 1}", **arguments)[0]
    except S3Error as error:
        if "InvalidRange" in str(error) or "(416)" in str(error):
            return b""
        raise


def list_page(prefix: S3Location, token: str = "", delimiter: str = "") -> dict[str, Any]:
    """Return a page of the objects whose keys begin with a prefix: all, or those up to the next `delimiter`.

    `token` is the `NextContinuationToken` of the previous page.
    """
    continuation = {"ContinuationToken": token} if token else {}
    return call("ListObjectsV2", prefix, Prefix=prefix.key, Delimiter=delimiter, **continuation)


def check_reachable(prefix: S3Location) -> None:
    """Check within a minute that objects under a prefix can be listed. Raises S3Error."""
    try:
        call("ListObjectsV2", prefix, False, Prefix=prefix.key, MaxKeys=1)
    except FileNotFoundError as error:  # some stores report an absent bucket as 404 without a code
        raise S3Error(f"{error}. Check the bucket's name and AWS_ENDPOINT_URL") from None


def open_object(location: S3Location) -> BinaryIO:
    """Open an object as a buffered, seekable file. Raises FileNotFoundError, S3Error.

    All reads are for the same version of the object. They raise S3Error if it is replaced meanwhile.
    """
    head = call("HeadObject", location)

    def read_range(start: int, length: int) -> bytes:
        try:
            return get_range(location, start, length, IfMatch=head["ETag"])
        except ConditionFailed:
            raise S3Error(f"{location}: was replaced while it was read; run the same command again") from None

    return io.BufferedReader(RangeReader(int(head["ContentLength"]), read_range), READ_BUFFER_SIZE)


def _region(session: boto3.Session) -> dict[str, str]:
    """Return the region argument of a client: AWS_REGION, which boto3 ignores, or a default for the signature."""
    return {} if session.region_name else {"region_name": os.environ.get("AWS_REGION", "us-east-1")}


def _addressing_style(client: Any) -> str | None:
    """Return `s3.addressing_style` of the user's AWS configuration, from which the client was made."""
    return (client.meta.config.s3 or {}).get("addressing_style")


def _endpoint(client: Any) -> str:
    """Return the endpoint's URL, without a user name and password that it may contain."""
    return re.sub("//[^/]*@", "//", client.meta.endpoint_url)


def _error_code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _describe_failure(error: Exception, operation: str, location: S3Location, client: Any) -> str:
    reason, advice = _reason(error), _advice(error, operation)
    return f"{location}: {operation} at {_endpoint(client)} failed: {reason}. {advice}"


def _reason(error: Exception) -> str:
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", "no status")
        return f"{details.get('Code', 'unknown error')} ({status}) {details.get('Message', '')}".strip().rstrip(".")
    return " ".join(str(error).split()).rstrip(".")


def _advice(error: Exception, operation: str) -> str:
    """Return a sentence that says what to check."""
    code = _error_code(error) if isinstance(error, ClientError) else ""
    if code == "NoSuchBucket":
        return "Check the bucket's name, and AWS_ENDPOINT_URL and AWS_DEFAULT_REGION, which select the store"
    if code in UNKNOWN_KEYS:
        return f"The credentials are not valid at this endpoint: check {CREDENTIALS}, and AWS_ENDPOINT_URL"
    if code in EXPIRED_KEYS:
        return "The credentials have expired: renew them and run the same command again to resume"
    if code in OTHER_REGION:
        return "The bucket is in another region: set AWS_DEFAULT_REGION"
    if code in ACCESS_DENIED:
        permission = PERMISSIONS.get(operation, "this")
        hint = " (without s3:ListBucket, S3 denies access to absent objects too)" if "Get" in permission else ""
        return f"The credentials do not grant {permission}{hint}: check the policies of the user and of the bucket"
    if code == "RequestTimeTooSkewed":
        return "Correct this machine's clock"
    if isinstance(error, NoCredentialsError):
        return f"Set {CREDENTIALS}"
    if isinstance(error, ReadTimeoutError | ConnectTimeoutError | ConnectionError | HTTPClientError):
        return "Check AWS_ENDPOINT_URL, the network and that the store is up; then run the same command again to resume"
    if isinstance(error, ClientError):
        return "Run the same command again to resume; if the error persists, ask the operator of the store"
    return "Check AWS_ENDPOINT_URL, AWS_PROFILE and AWS_DEFAULT_REGION"
