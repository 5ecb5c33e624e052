"""One obstore client a bucket, with the credentials that its cloud's own tools would use."""

from __future__ import annotations

import json
import os
import threading
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from batchgen.errors import UsageError
from batchgen.job.stores.failures import StoreError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["SCHEMES", "client", "endpoint", "require_extra", "s3_session"]

SCHEMES = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}
RETRY_SECONDS = 300.0
"""A store that is away for so long ends the run; finished rows are kept."""
_TIMEOUT = timedelta(seconds=120)
"""Of one request: a part of an upload takes this long on a slow line."""
_CONNECT_TIMEOUT = timedelta(seconds=10)
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE")


def require_extra(address: str) -> None:
    """Raise UsageError where the package that reads and writes such places is not installed."""
    if find_spec("obstore") is None:
        raise UsageError(
            f"{address}: object stores need the extra `remote`, which is not installed",
            "pip install 'batchgen-llm[remote]'",
        )


_clients: dict[str, ObjectStore] = {}
_making = threading.Lock()


def client(root: str) -> ObjectStore:
    """The store of `s3://bucket`, `gs://bucket` or `az://container`; one for all who ask."""
    with _making:
        if root not in _clients:
            _clients[root] = _made(root)
        return _clients[root]


def _made(root: str) -> ObjectStore:
    import obstore.store

    scheme, _, bucket = root.partition("://")
    options: dict[str, Any] = {"timeout": _TIMEOUT, "connect_timeout": _CONNECT_TIMEOUT}
    given: dict[str, Any] = {}
    if scheme == "s3":
        options["allow_http"] = endpoint().startswith("http://")
        given = _s3_settings()
    elif scheme == "gs" and (emulator := os.environ.get("STORAGE_EMULATOR_HOST")):
        options["allow_http"] = True
        given = {"service_account_key": _emulated_account(emulator)}
    elif scheme == "az":
        emulated = os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in ("1", "true")
        options["allow_http"] = emulated  # Azurite's, on this machine
    retry = {"max_retries": 30, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
    make = getattr(obstore.store, SCHEMES[scheme])
    try:
        store: ObjectStore = make(bucket, client_options=options, retry_config=retry, **given)
    except Exception as error:  # obstore's configuration errors have no common class
        raise StoreError(root, _setting(error)) from None
    return store


def _emulated_account(address: str) -> str:
    """What sends obstore to an emulator of Google's storage, named as for Google's own clients."""
    address = address if "://" in address else f"http://{address}"
    nobody = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
    return json.dumps({"gcs_base_url": address, "disable_oauth": True, **nobody})


def s3_session() -> Any:
    """boto3's session: profiles, SSO and instance roles as the aws command finds them."""
    import boto3

    return boto3.Session()


def _s3_settings() -> dict[str, Any]:
    """What obstore does not find by itself. Keys in the environment it reads alone."""
    settings: dict[str, Any] = {"endpoint": endpoint()} if endpoint() else {}
    if not any(os.environ.get(name) for name in _KEYS) and find_spec("boto3") is not None:
        session = s3_session()
        if session.get_credentials() is None:
            raise StoreError("s3://", "no credentials were found")
        from obstore.auth.boto3 import Boto3CredentialProvider

        settings["credential_provider"] = Boto3CredentialProvider(session)
        settings |= {"region": session.region_name} if session.region_name else {}
    return settings


def endpoint() -> str:
    """Another address of S3's protocol than Amazon's; empty: Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _setting(error: Exception) -> str:
    """The first line of what obstore says of a setting: it names settings, not their values."""
    lines = str(error).splitlines()
    return f"it cannot be set up: {lines[0]}" if lines else "it cannot be set up"
