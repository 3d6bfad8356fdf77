# SPDX-License-Identifier: Apache-2.0
"""Repositories of an OCI registry, by the library oras.

An image is an artifact: a manifest with one layer, of a media type of ours, that has the bytes of the file. A registry
knows layers by their SHA-256. The manifest is pushed last, so a tag names the old image or the new one. Other programs
push and pull the same::

    oras push REGISTRY/REPO:TAG tree.ckpt:application/vnd.ckptree.image.v1

Credentials are those of ``docker login`` (``~/.docker/config.json`` and its helpers). Registries on this host are asked
without TLS, as docker does, and no other (agent.fleet.stores.guardedhttp).
"""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agent import foreignjson
from agent.errors import CkptreeError, FormatError
from agent.fleet.stores import guardedhttp
from agent.fleet.stores.store import MOST_BYTES, Closing, MissingError, Stored, StoreError, bound, sha256, verified

if TYPE_CHECKING:
    from oras.container import Container
    from requests import Response

MEDIA_TYPE: Final = "application/vnd.ckptree.image.v1"
"""Of the layer that is an image, and of the artifact."""

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_EMPTY: Final = b"{}"
_EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
_PATIENCE_S: Final = (5.0, 30.0)  # to connect, and between two bytes
_MOST_MANIFEST: Final = 4 << 20
_CHUNK: Final = 1 << 20
_DONE: Final = (200, 201, 202)
_FORBIDDEN: Final = (401, 403)
_MISSING: Final = 404
_FAULTS: Final = 500
"""The first status that tells a fault of the registry itself."""
_PAUSES_S: Final = (0.1, 0.5, 1.0)


T = TypeVar("T")


class RegistryFaultError(StoreError):
    """A fault of the registry itself (exit code 1)."""


class OciStore(Closing):
    """A repository as an `ObjectStore`, whose names are tags.

    Args:
        place: registry and repository, as in ``localhost:5000/team/trees``.
    """

    def __init__(self, place: str) -> None:
        import requests
        from oras.logger import logger
        from oras.provider import Registry

        self.address = f"oci://{place}"
        self._place = place
        self._host = place.partition("/")[0]
        insecure = guardedhttp.is_local(self._host)
        logger.set_level(logging.CRITICAL)  # what the library would print is in an error, too
        with self._answered(""), requests.Session() as session:
            guardedhttp.guard(session, self.address, local=insecure)
            url = f"{'http' if insecure else 'https'}://{self._host}/v2/"
            with session.get(url, timeout=_PATIENCE_S, stream=True) as answer:
                challenge = answer.headers.get("Www-Authenticate", "")
        self._wants_password = challenge.lower().startswith("basic")
        self._registry = Registry(insecure=insecure, auth_backend="basic" if self._wants_password else "token")
        # The library would try again for two minutes what no second attempt makes better.
        self._registry.do_request = partial(Registry.do_request.__wrapped__, self._registry)
        own = self._registry.session  # of the requests for tokens, too
        guardedhttp.guard(own, self.address, local=insecure)
        own.request = partial(own.request, timeout=_PATIENCE_S)

    def head(self, name: str) -> Stored | None:
        """Return size and hash of an image; None where there is no such tag."""
        layer = self._layer(name)
        return None if layer is None else _stored(layer)

    def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Read an image."""
        where = f"{self.address}:{name}"
        layer = self._layer(name)
        if layer is None:
            raise MissingError(f"there is no image {where}")
        stored = _stored(layer)
        bound(where, stored.size, most)
        with self._answered(name):
            answer = self._registry.get_blob(self._container(name), layer["digest"], stream=True)
            if answer.status_code == _MISSING:
                answer.close()
                raise FormatError(where, f"the registry has its manifest, and not its layer {layer['digest']}")
            data = _read(self._checked(answer, where), stored.size + 1)
        return verified(where, data, stored)

    def put(self, name: str, data: bytes) -> None:
        """Push an image, and let the tag name it."""
        _tried(partial(self._push, name, data))

    def _push(self, name: str, data: bytes) -> None:
        container = self._container(name)
        layer = {"mediaType": MEDIA_TYPE, "size": len(data), "digest": f"sha256:{sha256(data)}"}
        config = {"mediaType": _EMPTY_TYPE, "size": len(_EMPTY), "digest": f"sha256:{sha256(_EMPTY)}"}
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "artifactType": MEDIA_TYPE,
            "config": config,
            "layers": [layer],
        }
        with self._answered(name):
            self._log_in(container)
            for blob, about in ((data, layer), (_EMPTY, config)):
                with _in_memory(blob) as path:
                    self._checked(self._registry.upload_blob(path, container, about), self.address)
            self._checked(self._registry.upload_manifest(manifest, container), f"{self.address}:{name}")

    def create(self, name: str, data: bytes) -> None:  # noqa: ARG002 - as the protocol has it
        """Refuse: a registry replaces a tag, always.

        Raises:
            StoreError: always.
        """
        raise StoreError(
            f"{self.address}:{name}: a registry cannot tell a new tag from an old one: use nats:// or s3://"
        )

    def close(self) -> None:
        """Close the connections."""
        self._registry.session.close()

    def _container(self, name: str) -> "Container":
        from oras.container import Container

        return Container(f"{self._place}:{name}")

    def _log_in(self, container: "Container") -> None:
        """Look for credentials, which a registry may not ask for.

        Raises:
            StoreError: it asks for a password, and there is none.
        """
        self._registry.auth.load_configs(container)
        if self._wants_password and not getattr(self._registry.auth, "_basic_auth", None):
            raise StoreError(
                f"{self.address}: the registry wants a password: `docker login {self._host}` keeps one for it"
            )

    def _layer(self, name: str) -> dict[str, Any] | None:
        """Return the layer that is the image, as the manifest describes it; None where there is no such tag."""
        where = f"{self.address}:{name}"
        text = _tried(partial(self._manifest, name, where))
        if text is None:
            return None
        try:
            layers = foreignjson.loads(text).get("layers", [])
            ours: list[dict[str, Any]] = [layer for layer in layers if layer["mediaType"] == MEDIA_TYPE]
            (layer,) = ours
            _stored(layer)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FormatError(
                where, f"is no image of ckptree: its manifest has no single layer {MEDIA_TYPE}"
            ) from error
        return layer

    def _manifest(self, name: str, where: str) -> bytes | None:
        """Return the manifest of a tag; None where there is no such tag."""
        container = self._container(name)
        with self._answered(name):
            self._log_in(container)
            url = f"{self._registry.prefix}://{container.manifest_url()}"
            answer = self._registry.do_request(url, "GET", headers={"Accept": _MANIFEST}, stream=True)
            if answer.status_code == _MISSING:
                answer.close()
                return None
            return _read(self._checked(answer, where), _MOST_MANIFEST)

    def _checked(self, answer: "Response", where: str) -> "Response":
        """Return an answer that is a success.

        Raises:
            StoreError: it is none.
        """
        if answer.status_code in _DONE:
            return answer
        words = f"{answer.status_code} {answer.reason}"
        with suppress(ValueError, TypeError, KeyError):
            words = (
                "; ".join(str(each["message"]) for each in foreignjson.loads(_read(answer, _CHUNK))["errors"]) or words
            )
        if answer.status_code in _FORBIDDEN:
            words += f": `docker login {self._host}` keeps credentials for it"
        kind = RegistryFaultError if answer.status_code >= _FAULTS else StoreError
        raise kind(f"{where}: the registry refused: {words}")

    @contextmanager
    def _answered(self, name: str) -> Iterator[None]:
        """Translate the errors of the libraries."""
        from oras.auth import AuthenticationException
        from requests.exceptions import ConnectionError as Unreachable
        from requests.exceptions import RequestException, SSLError

        where = f"{self.address}:{name}" if name else self.address
        try:
            yield
        except CkptreeError:  # a FormatError is a ValueError
            raise
        except SSLError as error:
            raise StoreError(f"{where}: TLS with {self._host} failed: {error}") from error
        except Unreachable as error:
            raise StoreError(f"{where}: the registry {self._host} cannot be reached, or has ended") from error
        except (RequestException, AuthenticationException, OSError) as error:
            raise StoreError(f"{where}: {error}") from error
        except ValueError as error:
            raise StoreError(
                f"{where}: the registry {self._host} refused: {error} `docker login {self._host}` keeps credentials for it"
            ) from error


def _tried(work: Callable[[], T]) -> T:
    """Do some work, again where the registry itself fails.

    Debian's docker-registry answers 500 where two push the same bytes or tag, or one reads a tag that another one writes.
    """
    for pause_s in _PAUSES_S:
        with suppress(RegistryFaultError):
            return work()
        time.sleep(pause_s)
    return work()


def _stored(layer: dict[str, Any]) -> Stored:
    """Read size and hash in the description of a layer."""
    kind, _, digits = layer["digest"].partition(":")
    if kind != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError(kind)
    return Stored(int(layer["size"]), digits)


def _read(answer: "Response", most: int) -> bytes:
    """Read an answer, but no more than so many bytes of it."""
    data = bytearray()
    with answer:
        for chunk in answer.iter_content(_CHUNK):
            data += chunk
            if len(data) >= most:
                break
    return bytes(data[:most])


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """Hold bytes in a file in memory, for the library takes files alone; yield its path."""
    with os.fdopen(os.memfd_create("ckptree-image"), "wb") as file:
        file.write(data)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
