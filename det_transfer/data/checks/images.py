"""Looking into every image: does it decode, is it what the json says, is it there twice."""

import hashlib
import io
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from .annotations import image_file
from .findings import Finding, findings_of

__all__ = ["ImageCheck", "check_images", "same_pictures", "shared_pictures"]

_CHUNK = 32  # images handed to a process at a time
_EXIF_ORIENTATION = 0x0112
_HASH_SIDE = 16
# Of 256 bits. Measured on 945 real photographs and microscope images (COCO, BCCD, rooms): two
# different pictures are 30 apart at least, 56 but for one pair; the same picture after a third of
# its side was taken off is 16 apart at most, as JPEG of quality 40 in 99 of 100 cases 20.
_SAME_PICTURE = 24
_BLOCK = 1024  # rows compared at a time


class _Seen(NamedTuple):
    """What one image told."""

    kind: str  # of KINDS, "" where nothing is wrong
    detail: str
    digest: bytes  # of the file
    picture: bytes  # perceptual hash, 32 bytes; empty where the image cannot be decoded


@dataclass
class ImageCheck:
    """What :func:`check_images` found.

    Attributes:
        findings: worst first
        skip_images: ids of the images that training leaves out
        files: (N) paths of the images that decode
        pictures: (N, 4) uint64, their perceptual hashes
    """

    findings: list[Finding]
    skip_images: set[int]
    files: list[str]
    pictures: np.ndarray


def check_images(
    content: dict[str, Any], image_root: str | Path, workers: int = 2, progress: Any = None
) -> ImageCheck:
    """Decode every image of a json that exists.

    Args:
        content: without :func:`~det_transfer.data.checks.format_problems`
        workers: processes
        progress: wraps the iterable of results, as ``tqdm`` does
    """
    root = Path(image_root)
    images = [i for i in content["images"] if (root / image_file(i)).is_file()]
    tasks = [(str(root / image_file(i)), i["width"], i["height"]) for i in images]
    found: dict[str, list[str]] = defaultdict(list)
    files: list[str] = []
    pictures: list[bytes] = []
    digests: dict[bytes, str] = {}
    skip: set[int] = set()
    results = _look_at_all(tasks, workers)
    results = progress(results) if progress else results
    for image, (path, *_), seen in zip(images, tasks, results, strict=True):
        if seen.kind:
            skip.add(image["id"])
            found[seen.kind].append(f"{path} ({seen.detail})")
        if seen.picture:
            if seen.digest in digests:
                found["same picture twice"].append(f"{path} and {digests[seen.digest]}")
            else:
                digests[seen.digest] = path
                files.append(path)
                pictures.append(seen.picture)
    codes = np.frombuffer(b"".join(pictures), np.uint64).reshape(-1, 4)
    found["same picture twice"] += [
        f"{files[b]} and {files[a]}" for a, b in same_pictures(codes, codes) if a < b
    ]
    return ImageCheck(findings_of(found), skip, files, codes)


def shared_pictures(first: ImageCheck, second: ImageCheck) -> list[Finding]:
    """The images of `second` that show a picture of `first`: train and val, say."""
    pairs = {
        b: f"{second.files[b]} and {first.files[a]}"
        for a, b in same_pictures(first.pictures, second.pictures)
    }
    return findings_of({"same picture in both": list(pairs.values())})


def same_pictures(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs (row of `first`, row of `second`) of hashes that stand for the same picture.

    Args:
        first, second: (N, 4) and (M, 4) uint64. All pairs are compared: 100,000 against themselves
            take about a minute
    """
    for start in range(0, len(first), _BLOCK):
        block = first[start : start + _BLOCK]
        distance = np.zeros((len(block), len(second)), np.uint16)
        for word in range(4):
            distance += np.bitwise_count(block[:, word, None] ^ second[None, :, word])
        for a, b in np.argwhere(distance <= _SAME_PICTURE).tolist():
            yield start + a, b


def _look_at_all(tasks: Sequence[tuple[str, int, int]], workers: int) -> Iterator[_Seen]:
    chunks = (tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK))
    if workers < 2:
        for chunk in chunks:
            yield from _look_at_some(chunk)
        return
    with ProcessPoolExecutor(workers) as pool:
        for seen in pool.map(_look_at_some, chunks):
            yield from seen


def _look_at_some(tasks: Sequence[tuple[str, int, int]]) -> list[_Seen]:
    return [_look_at(*task) for task in tasks]


def _look_at(path: str, width: int, height: int) -> _Seen:
    """Decode an image whole and compare it with the json's `width` and `height`."""
    data = Path(path).read_bytes()
    digest = hashlib.blake2b(data, digest_size=16).digest()
    try:
        image, orientation = _decode(data)
    except Image.DecompressionBombError as error:
        return _Seen("oversized image", str(error), digest, b"")
    except UnidentifiedImageError:
        return _Seen("broken image", "no image that Pillow knows", digest, b"")
    except (OSError, SyntaxError, ValueError) as error:  # as Pillow says "broken" of its formats
        return _Seen("broken image", str(error), digest, b"")
    kind, detail = _size_problem(image.size, orientation, (width, height))
    return _Seen(kind, detail, digest, _perceptual_hash(image))


def _decode(data: bytes) -> tuple[Image.Image, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, which still decode
        with Image.open(io.BytesIO(data)) as image:
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            image.load()
            return image, orientation


def _size_problem(
    stored: tuple[int, int], orientation: int, said: tuple[int, int]
) -> tuple[str, str]:
    """Detectron2 turns an image by its EXIF data, then compares its size with the json's."""
    upright = stored[::-1] if orientation >= 5 else stored
    if upright == said:
        return "", ""
    detail = f"{upright[0]} x {upright[1]}, not {said[0]} x {said[1]}"
    return ("turned by EXIF" if stored == said else "other size"), detail


def _perceptual_hash(image: Image.Image) -> bytes:
    """256 bits that stay alike when a picture is resized or compressed anew.

    Each bit says whether one of 16 x 16 pixels is darker than the next in its row ("dHash").
    Source: N. Krawetz, "Kind of Like That", 2013; here of 16 x 16 rather than 8 x 8.
    """
    small = image.convert("L").resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()
