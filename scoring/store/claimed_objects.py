"""A place of objects that belongs to one database: nobody else's files are read, written over or removed."""

from __future__ import annotations

from typing import Final

from trustwatch.ingest.errors import ConfigError, ObjectMissing
from trustwatch.ingest.objects.object_store import ObjectStore

_OWNER: Final = "deployment"
"""Name of the object that says whose the place is."""


class ClaimedObjects:
    """Objects of a place, once it is known to be ours.

    Args:
        objects: of the place.
        deployment: id of the deployment whose place it must be, of `database_id`: before anything is done there it is
            seen to, once. None = whoever opened it may look at any place.
    """

    def __init__(self, objects: ObjectStore, deployment: str | None) -> None:
        self._objects = objects
        self._unchecked_deployment = deployment

    def check(self) -> None:
        """Try the place, and see to whose it is.

        Raises:
            ConfigError: it refuses, or is another deployment's, whose files would be removed.
            Unavailable: it does not answer.
        """
        self._objects.check()
        self.get()

    def get(self) -> ObjectStore:
        """The objects. Raises ConfigError, Unavailable as `check`."""
        if (deployment := self._unchecked_deployment) is not None:  # of two threads both may find it unchecked
            _claim(self._objects, deployment)
            self._unchecked_deployment = None
        return self._objects


def _claim(objects: ObjectStore, deployment: str) -> None:
    try:
        owner = objects.get(_OWNER).decode()
    except ObjectMissing:
        objects.put(_OWNER, deployment.encode())
        owner = objects.get(_OWNER).decode()
    if owner != deployment:
        raise ConfigError(
            "`store.checkpoints`: the place is another database's (object `deployment`); name one of this database "
            "alone. If it names none, `snapshots` in `data_dir` is meant: remove that folder"
        )
