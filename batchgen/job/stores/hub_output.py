"""A file of a dataset repository on the Hugging Face hub, as an output: it appears by one commit.

A commit names the one that it follows, and the hub refuses it once that is no longer the newest: so
what was looked at right before is what is replaced, or nothing is. The token is huggingface_hub's
(HF_TOKEN, or `hf auth login`), and stays there.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from batchgen.causes import first_line
from batchgen.errors import UsageError
from batchgen.job.stores.failures import StoreError
from batchgen.job.stores.places import Place

__all__ = ["HubOutput", "content_ids", "local_copy"]

_ADDRESS = re.compile(
    r"hf:/{1,2}datasets/(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^/]+))?/(?P<path>.+)"
)
_PAUSES_S = (0.5, 2.0, 8.0, 30.0)
_MOVED = (409, 412)
_BLOCK_BYTES = 8 << 20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HubOutput:
    """`hf://datasets/ORG/NAME[@BRANCH]/PATH`."""

    repo: str
    revision: str
    path: str

    @classmethod
    def of(cls, out: object) -> HubOutput | None:
        """None where it is no address of the hub. Raises UsageError where it names no file of a
        dataset."""
        text = str(out)
        if not text.startswith("hf:/"):  # pathlib makes one slash of two
            return None
        found = _ADDRESS.fullmatch(text)
        if found is None or ".." in found["path"].split("/"):
            raise UsageError(
                f"--out {text.replace('hf:/', 'hf://', 1).replace('///', '//')}: this is no file "
                "of a dataset repository",
                "write hf://datasets/ORG/NAME/FILE.parquet",
            )
        return cls(found["repo"], found["revision"] or "main", found["path"])

    def __str__(self) -> str:
        branch = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf://datasets/{self.repo}{branch}/{self.path}"

    @property
    def name(self) -> str:
        """Of the file."""
        return self.path.rpartition("/")[2]

    @property
    def default_folder(self) -> Path:
        """Where work in progress is kept unless --checkpoint-dir says otherwise."""
        return Path(f"{self.repo}/{self.path}".replace("/", "--") + ".ckpt")

    def look(self) -> tuple[str, str | None]:
        """The branch's newest commit, and the content's id there; None: there is no such file.

        Raises StoreError.
        """
        from huggingface_hub import HfApi

        def ask() -> tuple[str, str | None]:
            commit = HfApi().dataset_info(self.repo, revision=self.revision).sha
            found = HfApi().get_paths_info(
                self.repo, [self.path], revision=commit, repo_type="dataset"
            )
            if not found:
                return str(commit), None
            lfs = getattr(found[0], "lfs", None)
            return str(commit), lfs.sha256 if lfs else getattr(found[0], "blob_id", "a folder")

        return self._asked(ask)

    def send(self, local: Path, parent: str) -> bool:
        """Commit the file on top of that commit; False where the branch has moved on.

        Raises StoreError. What was sent before a failure is no part of the repository.
        """
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # a log that nobody watches would fill with them

        def commit() -> bool:
            try:
                HfApi().create_commit(
                    self.repo,
                    [CommitOperationAdd(self.path, str(local))],
                    commit_message=f"Write {self.path} with batchgen",
                    repo_type="dataset",
                    revision=self.revision,
                    parent_commit=parent,
                )
            except Exception as error:
                if _status(error) in _MOVED:
                    return False
                raise
            return True

        return self._asked(commit)

    def _asked(self, ask: Callable[[], T]) -> T:
        """The answer; asked for again where the hub or the way to it fails for a moment."""
        for pause in (*_PAUSES_S, None):
            try:
                return ask()
            except Exception as error:  # of huggingface_hub, its HTTP client and hf_xet
                if pause is None or not _is_passing(error):
                    raise StoreError(self, _reason(error)) from None
            time.sleep(pause)
        raise AssertionError("the last pause is None")


def content_ids(path: Path) -> frozenset[str]:
    """What the hub calls this content: its SHA-256, or git's SHA-1 of it."""
    plain = hashlib.sha256()
    git = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            plain.update(block)
            git.update(block)
    return frozenset({plain.hexdigest(), git.hexdigest()})


def _causes(error: BaseException | None) -> Iterator[Exception]:
    """The error and what it came of: huggingface_hub wraps what an upload met."""
    while isinstance(error, Exception):
        yield error
        error = error.__cause__


def _status(error: Exception) -> int | None:
    """Of the hub's answer; None: there was none."""
    for cause in _causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _is_passing(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    return any(
        type(cause).__module__.startswith(("httpx", "httpcore", "requests"))
        or isinstance(cause, ConnectionError | TimeoutError)
        for cause in _causes(error)
    )


def _reason(error: Exception) -> str:
    status = _status(error)
    if status in (401, 403):
        return f"access is denied ({status}): set HF_TOKEN to a token that may write there"
    if status == 404:
        return "there is no such repository or branch, or the token may not see it (404)"
    if status is not None and status >= 500:
        return f"the hub answers {status}"
    from huggingface_hub import get_token

    said = ": ".join(first_line(cause) for cause in _causes(error))
    token = get_token()
    return said.replace(token, "***") if token else said


def local_copy(out: Place, checkpoint_dir: Place | None) -> tuple[Place, Place | None]:
    """Output and checkpoint folder to work on: those given, or for an address of the hub those
    here. Raises UsageError."""
    hub = HubOutput.of(out)
    if hub is None:
        return out, checkpoint_dir
    folder = checkpoint_dir or hub.default_folder
    if not isinstance(folder, Path):
        raise UsageError(
            f"--checkpoint-dir {folder}: work for {hub} is kept on a disk",
            "name a local folder",
        )
    return folder / "output" / hub.name, folder
