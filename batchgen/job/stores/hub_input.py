"""Files of a dataset repository on the Hugging Face hub, at the commit of the moment."""

from __future__ import annotations

from typing import Any

from batchgen.causes import first_line
from batchgen.job.stores.failures import StoreError
from batchgen.job.stores.remote_input import RemoteInput

__all__ = ["PREFIX", "hub_inputs", "names_a_file"]

PREFIX = "hf://datasets/"


def names_a_file(address: str) -> bool:
    """Whether it is a file or a pattern in a repository, and not the dataset as a whole."""
    parts = address.removeprefix(PREFIX).strip("/").split("/")
    return address.startswith(PREFIX) and len(parts) > 2


def hub_inputs(address: str) -> list[RemoteInput]:
    """The file, or those that the pattern matches, sorted; [] where there is none.

    The branch is looked up once: all files are of one commit, and stay so while they are read.
    Raises StoreError.
    """
    from huggingface_hub import HfApi, HfFileSystem

    try:
        files = HfFileSystem()
        asked: Any = files.resolve_path(address)
        commit = HfApi().dataset_info(asked.repo_id, revision=asked.revision).sha
        base = f"datasets/{asked.repo_id}@{commit}"
        found = sorted(files.glob(f"{base}/{asked.path_in_repo}"))
        return [_input(files, path, path.replace(f"@{commit}", "", 1)) for path in found]
    except FileNotFoundError:
        return []
    except Exception as error:  # of huggingface_hub, httpx and fsspec, without a common class
        raise StoreError(address, first_line(error)) from None


def _input(files: Any, path: str, shown: str) -> RemoteInput:
    info = files.info(path)
    version = (info.get("lfs") or {}).get("sha256") or info.get("blob_id") or ""

    def fetch(start: int, stop: int) -> bytes:
        try:
            return bytes(files.cat_file(path, start=start, end=stop))
        except FileNotFoundError:
            raise
        except Exception as error:
            raise StoreError(f"hf://{shown}", first_line(error)) from None

    return RemoteInput(f"hf://{shown}", info["size"], version, fetch)
