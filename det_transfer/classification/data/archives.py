"""Files inside a tar archive, read where they lie."""

import os
import tarfile
from pathlib import Path, PurePosixPath

from ...errors import UserError

__all__ = ["Archive"]


class Archive:
    """The files of an uncompressed tar; nothing is unpacked.

    Reading needs no shared position, so that loading processes may share one.

    Args:
        path: of the archive

    Raises:
        UserError: it is missing, compressed or no tar
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        try:
            with tarfile.open(self.path, "r:") as tar:
                every = list(tar)
        except FileNotFoundError as error:
            raise UserError(f"archive {path} does not exist") from error
        except (tarfile.TarError, OSError) as error:
            raise UserError(
                f"archive {path} cannot be read as an uncompressed tar: {error}; gunzip it first "
                "if it is compressed"
            ) from error
        self._places = {
            m.name.removeprefix("./"): (m.offset_data, m.size) for m in every if m.isfile()
        }
        self._folders = {m.name.removeprefix("./") for m in every if m.isdir()}
        self._descriptor = -1

    def __iter__(self):
        """Names of the files, in the archive's order."""
        return iter(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def leaves(self) -> set[str]:
        """Folders that the archive names, without folders inside."""
        parents = {PurePosixPath(folder).parent.as_posix() for folder in self._folders}
        return self._folders - parents

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        offset, size = self._places[name]
        return os.pread(self._descriptor, size, offset)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_descriptor": -1}  # another process opens its own

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)
