"""Repositories of the Hugging Face hub with a network of timm: their files config.json and model.safetensors.

A folder with these two files is read in the same way, without a connection.
"""

import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml.errors import WeightsError, needs_package
from ml.networks.weights import download_error, is_refusal
from serving.bundle.files import sha256_of

_COPY = "give the folder of a copy: local-dir:DIR."
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_LICENSE = re.compile(r"^license:\s*['\"]?([^\s'\"]+)", re.MULTILINE)
"""The licence in the block of YAML with which a repository's README begins."""


@dataclass(frozen=True)
class Repository:
    """A repository's description of its network.

    Attributes:
        architecture: the name of timm's network.
        arguments: arguments with which timm makes it.
        config: what timm calls the pretrained configuration: input size, mean, deviation and others.
        license: as the repository states it, None if it does not.
        sha256: hash of config.json.
        weights: the path of model.safetensors.
    """

    architecture: str
    arguments: Mapping[str, Any]
    config: Mapping[str, Any]
    license: str | None
    sha256: str
    weights: Path


def read_repository(folder: Path) -> Repository:
    """Read config.json in `folder`. Raises WeightsError if it is missing or describes no network of timm."""
    file = folder / CONFIG
    try:
        content = file.read_bytes()
        document = json.loads(content)
        config = document.get("pretrained_cfg", document)  # earlier versions of timm wrote one level
        architecture, arguments = document["architecture"], document.get("model_args") or {}
        stated = config.get("license") or document.get("license") or _license_of_card(folder / CARD)
        if not isinstance(architecture, str) or not isinstance(arguments, dict):
            raise TypeError
    except OSError as error:
        reason = error.strerror or error
        raise WeightsError(f"{file} cannot be read: {reason}. Give the folder of a network of timm.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file} does not describe a network of timm. Give the folder of one.") from error
    return Repository(architecture, arguments, config, stated, sha256_of(content), folder / WEIGHTS)


def _license_of_card(card: Path) -> str | None:
    if not card.is_file():
        return None
    header = card.read_text(encoding="utf-8", errors="replace").removeprefix("---").partition("\n---")[0]
    found = _LICENSE.search(header)
    return found[1] if found else None


def download_repository(name: str, cache: Path) -> Path:
    """Download a repository's files and return their folder. `name` is OWNER/NAME, with @REVISION if wanted.

    Files that are already in the folder `cache` are not downloaded again, and used if the hub does not respond. Raises
    as `download_file` does.
    """
    folder = download_file(name, CONFIG, cache).parent
    download_file(name, WEIGHTS, cache)
    if read_repository(folder).license is None:
        with suppress(WeightsError):  # without a card the licence is unknown
            download_file(name, CARD, cache)
    return folder


def check_packages() -> None:
    """Raise MissingPackageError if a package that reads the hub is missing."""
    with needs_package("A backbone of the Hugging Face hub"):
        import huggingface_hub  # noqa: F401
        import timm  # noqa: F401


def download_file(name: str, file: str, cache: Path, instead: str = _COPY) -> Path:
    """Download one file of the repository `name`, unless the folder `cache` has it, and return its path.

    If the hub does not send it, `instead` says what the person can do.

    Raises WeightsUnavailable (retryable) if the hub cannot be reached, and WeightsError if it or a proxy refuses the
    request, it has no such file, it is switched off by HF_HUB_OFFLINE, or the cache may not be written.
    """
    check_packages()
    from huggingface_hub import errors, hf_hub_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns about each of its attempts
    repository, _, revision = name.partition("@")
    try:
        return Path(hf_hub_download(repository, file, revision=revision or None, cache_dir=cache))
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"The hub gives {repository} only to accounts that have accepted its conditions. Accept them on its page "
            "and run `hf auth login`."
        ) from error
    except (errors.RemoteEntryNotFoundError, errors.RevisionNotFoundError, errors.RepositoryNotFoundError) as error:
        raise WeightsError(f"The hub has no {file} in {name}, or does not show it to you. Check the name.") from error
    except errors.HFValidationError as error:
        raise WeightsError(f"'{name}' is not the name of a repository. Give OWNER/NAME.") from error
    except Exception as error:  # the exceptions of its transports have no common base class
        causes = [error, error.__cause__ or error]
        permanent = any(
            isinstance(each, errors.OfflineModeIsEnabled | PermissionError) or is_refusal(_status(each))
            for each in causes
        )
        details = str(causes[1]).partition("\n")[0]
        raise download_error(f"The hub does not send {file} of {name}.", instead, not permanent, details) from error


def _status(error: BaseException) -> int:
    """The status of a response of the hub or of a proxy; 0 if there is none."""
    if type(error).__name__ == "ProxyError":
        found = re.match(r"\d{3}\b", str(error))
        return int(found[0]) if found else 0
    return getattr(getattr(error, "response", None), "status_code", 0)
