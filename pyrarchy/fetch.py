"""Find, read and download the files of MNIST and Fashion-MNIST; what is downloaded is checked before it is in place.

A file is streamed to a temporary name in its own folder, its *decompressed* bytes are compared with the pinned sha256
(mirrors gzip the same bytes differently), and it is renamed when they agree. So a file that is there is a good file: a
broken download leaves nothing behind, and running :func:`fetch` again keeps the files that are good already.

Source: LeCun, Cortes and Burges (1998), the MNIST database, http://yann.lecun.com/exdb/mnist; Xiao, Rasul and Vollgraf
(2017), Fashion-MNIST, https://arxiv.org/abs/1708.07747 and https://github.com/zalandoresearch/fashion-mnist.
"""

import gzip
import hashlib
import os
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .faults import DataError

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Remote:
    """``files``: name without .gz -> sha256 of the decompressed bytes; ``mirrors``: addresses that end in a slash."""

    files: dict[str, str]
    mirrors: tuple[str, ...]


REMOTES: dict[str, Remote] = {
    "mnist": Remote(
        files={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    "fashion_mnist": Remote(
        files={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        # Plain http at the makers' own address, which serves nothing else: the sha256 is what is trusted.
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
    ),
}


def cache_folder() -> Path:
    """The folder for downloaded data of this user, e.g. ``~/.cache/pyrarchy`` on Linux; not created here."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("pyrarchy"))


def fetch(
    name: str,
    folder: str | os.PathLike | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
    *,
    timeout: float = 30.0,
) -> Path:
    """Download data set ``name`` into ``folder/name`` and return that folder, where ``load_data`` can find it.

    ``folder`` is :func:`cache_folder` by default; for another one, set ``$PYRARCHY_DATA`` to it or hand it to
    ``load_data``. ``progress(file, bytes so far, bytes in all or None)`` is called after every block. ``timeout`` is
    the number of seconds without an answer after which the next mirror is tried. Raises :class:`~.files.DataError` for
    a name without mirrors, a folder that cannot be written, and when no mirror gives the right bytes.
    """
    name = name.replace("-", "_")
    if name not in REMOTES:
        raise DataError(f"nothing to download under the name {name!r}; data sets with mirrors: {', '.join(REMOTES)}")
    remote = REMOTES[name]
    target = Path(os.path.expanduser(cache_folder() if folder is None else folder)) / name
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{target}: cannot make this folder ({error}); give another with folder=, or by XDG_CACHE_HOME"
        ) from error
    for file, digest in remote.files.items():
        path = target / f"{file}.gz"
        if path.is_file() and _is_good(path, digest):
            continue
        failures = []
        for mirror in remote.mirrors:
            reason = _download(f"{mirror}{file}.gz", path, digest, progress, timeout)
            if reason is None:
                break
            failures.append(f"{mirror}{file}.gz: {reason}")
        else:
            raise DataError(
                f"{name}: no mirror gave {file}.gz ({'; '.join(failures)}); try again later, or put the file into "
                f"{target} yourself"
            )
    return target


def places(name: str, folder=None) -> list[Path]:
    """The folders in which the four files of ``name`` may lie, in the order in which they are tried."""
    spellings = dict.fromkeys((name, name.replace("_", "-")))
    roots = [folder, os.environ.get("PYRARCHY_DATA") or None, "/usr/share/datasets"]
    found = [Path(os.path.expanduser(root)) / spelling for root in roots if root is not None for spelling in spellings]
    torchvision = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}.get(name, name)
    found += [
        Path(os.path.expanduser(root)) / torchvision / "raw" for root in ("data", "~/data", "~/.cache/torchvision")
    ]
    return [*found, cache_folder() / name]


def find(name: str, folder=None) -> Path | None:
    """The first of :func:`places` that holds all the files of ``name``, gzipped or not; None when none does."""
    for place in places(name, folder):
        if all((place / f"{file}.gz").is_file() or (place / file).is_file() for file in REMOTES[name].files):
            return place
    return None


def read_idx(path, sha256: str | None = None) -> np.ndarray:
    """An IDX file of unsigned bytes, gzipped or not, as a uint8 array of the dimensions in its header.

    ``sha256`` is that of the decompressed bytes, if they are to be checked. Raises :class:`~.files.DataError` for a
    file that is damaged, not IDX of unsigned bytes, longer or shorter than its header says, or has other bytes.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it and get it again") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 4:
        raise DataError(f"{path}: begins with {content[:4].hex(' ')}, not as an IDX file of bytes; get it again")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{path}: ends within its header, after {len(content)} bytes; get it again")
    shape = tuple(np.frombuffer(content, ">u4", count=content[3], offset=4).tolist())
    need = 1
    for size in shape:  # Python's integers: a damaged header must not overflow into a fitting length
        need *= size
    if len(content) - start != need:
        raise DataError(f"{path}: has {len(content) - start} bytes of data but its header says {shape}; get it again")
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path}: not the published bytes (sha256 differs); delete it and get it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _is_good(path: Path, digest: str) -> bool:
    try:
        with gzip.open(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == digest
    except (OSError, EOFError, zlib.error):
        return False


def _download(url: str, path: Path, digest: str, progress, timeout: float) -> str | None:
    """Put ``url`` at ``path``, or say in a few words why not and leave ``path`` as it was."""
    import http.client
    import urllib.error
    import urllib.request

    # In the same folder, so that the rename is atomic; a name of its own, so that two downloads do not meet.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        stream = part.open("xb")
    except OSError as error:
        raise DataError(
            f"{part.parent}: cannot write here ({error}); give another with folder=, or by XDG_CACHE_HOME"
        ) from error
    try:
        with stream:
            # An error of the disk must not read as a mirror's, so only the network's are caught here.
            try:
                request = urllib.request.Request(url, headers={"User-Agent": "pyrarchy"})
                response = urllib.request.urlopen(request, timeout=timeout)
            except urllib.error.HTTPError as error:
                error.close()
                return f"HTTP {error.code}"
            except (OSError, http.client.HTTPException) as error:
                return f"{getattr(error, 'reason', error)}"
            with response:
                length = response.headers.get("Content-Length", "")
                total, done = int(length) if length.isdigit() else None, 0
                while True:
                    try:
                        block = response.read(_BLOCK)
                    except (OSError, http.client.HTTPException) as error:
                        return f"broke off after {done} bytes ({error})"
                    if not block:
                        break
                    _write(stream, block)
                    done += len(block)
                    if progress is not None:
                        progress(path.name, done, total)
        if total is not None and done < total:  # urllib ends such a download without a word
            return f"ended after {done} of {total} bytes"
        if not _is_good(part, digest):
            return f"its {done} bytes are not the file's (sha256 differs)"
        os.replace(part, path)
        return None
    finally:
        part.unlink(missing_ok=True)  # also on Ctrl-C


def _write(stream, block: bytes) -> None:
    try:
        stream.write(block)
    except OSError as error:
        raise DataError(f"{stream.name}: cannot write ({error}); make room or give another folder=") from error
