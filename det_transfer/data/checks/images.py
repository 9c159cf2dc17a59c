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
from .findings import KINDS, Finding, Severity, findings_of

__all__ = ["ImageCheck", "check_images", "first_matches", "shared_pictures"]

_CHUNK = 32  # images handed to a process at a time
_EXIF_ORIENTATION = 0x0112
_HASH_SIDE = 16
# Of 256 bits. Measured on 945 real photographs and microscope images (COCO, BCCD, rooms): two
# different pictures are 30 apart at least, 56 but for one pair; the same picture after a third of
# its side was taken off is 16 apart at most, as JPEG of quality 40 in 99 of 100 cases 20.
_SAME_PICTURE = 24
# Grey levels between the darkest and the lightest of the 17 x 16 pixels that are compared: below,
# they are noise or nothing, and all flat pictures would be the same. The flattest of the same
# photographs has 56.
_FLAT = 8
# Rows and columns compared at a time: what is made of them stays in a processor's cache.
_ROWS, _COLUMNS = 128, 4096


class _Seen(NamedTuple):
    """What one image told."""

    kind: str  # of KINDS, "" where nothing is wrong
    detail: str
    digest: bytes  # of the file
    decodes: bool
    picture: bytes  # perceptual hash, 32 bytes; empty where there is nothing to compare


@dataclass
class ImageCheck:
    """What :func:`check_images` found.

    Attributes:
        findings: worst first
        skip_images: ids of the images that training leaves out
        files: (N) paths of the images that can be compared with others
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
            found[seen.kind].append(f"{path} ({seen.detail})")
            if KINDS[seen.kind].severity is Severity.SKIPPED:
                skip.add(image["id"])
        if seen.decodes and seen.digest in digests:
            found["same picture twice"].append(f"{path} and {digests[seen.digest]}")
        elif seen.decodes:
            digests[seen.digest] = path
            if seen.picture:
                files.append(path)
                pictures.append(seen.picture)
    codes = np.frombuffer(b"".join(pictures), np.uint64).reshape(-1, 4)
    first = first_matches(codes)
    found["same picture twice"] += [
        f"{files[b]} and {files[first[b]]}" for b in np.flatnonzero(first >= 0)
    ]
    return ImageCheck(findings_of(found), skip, files, codes)


def shared_pictures(first: ImageCheck, second: ImageCheck) -> list[Finding]:
    """The images of `second` that show a picture of `first`: train and val, say."""
    match = first_matches(second.pictures, first.pictures)
    places = [f"{second.files[b]} and {first.files[match[b]]}" for b in np.flatnonzero(match >= 0)]
    return findings_of({"same picture in both": places})


def first_matches(codes: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """For each hash the first that stands for the same picture, (M,) int64, -1 for none.

    All pairs are compared, but one that differs in half of its bits already is left there.

    Args:
        codes: (M, 4) uint64
        others: (N, 4) uint64 in which to look; None: in the rows of `codes` before its own
    """
    within = others is None
    others = codes if within else others
    result = np.full(len(codes), -1)
    for low in range(0, len(codes), _ROWS):
        block = codes[low : low + _ROWS]
        best = np.full(len(block), len(others))
        for left in range(0, min(len(others), low + _ROWS) if within else len(others), _COLUMNS):
            row, column = _near(block, others[left : left + _COLUMNS])
            column += left
            if within:
                row, column = row[column < low + row], column[column < low + row]
            np.minimum.at(best, row, column)
        result[low : low + _ROWS] = np.where(best < len(others), best, -1)
    return result


def _near(block: np.ndarray, tile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `block` and of `tile` that are the same picture, pair by pair."""
    half = np.bitwise_count(block[:, None, 0] ^ tile[None, :, 0])
    half += np.bitwise_count(block[:, None, 1] ^ tile[None, :, 1])  # 128 at most
    row, column = np.nonzero(half <= _SAME_PICTURE)
    distance = np.bitwise_count(block[row] ^ tile[column]).sum(axis=1, dtype=np.uint16)
    near = distance <= _SAME_PICTURE
    return row[near], column[near]


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
        return _Seen("oversized image", str(error), digest, False, b"")
    except UnidentifiedImageError:
        return _Seen("broken image", "no image that Pillow knows", digest, False, b"")
    except (OSError, SyntaxError, ValueError) as error:  # as Pillow says "broken" of its formats
        return _Seen("broken image", str(error), digest, False, b"")
    kind, detail = _size_problem(image.size, orientation, (width, height))
    if not kind:
        kind, detail = _mode_problem(image)
    return _Seen(kind, detail, digest, True, _perceptual_hash(image))


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
    upright = stored[::-1] if 5 <= orientation <= 8 else stored  # other values mean nothing
    if upright == said == stored and 2 <= orientation <= 8:
        return "turned unseen", f"EXIF orientation {orientation}"
    if upright == said:
        return "", ""
    detail = f"{upright[0]} x {upright[1]}, not {said[0]} x {said[1]}"
    return ("turned by EXIF" if stored == said else "other size"), detail


def _mode_problem(image: Image.Image) -> tuple[str, str]:
    """Pillow's conversion to RGB cuts off what is above 255 and shows what is transparent."""
    if image.mode[0] in "IF":
        return "other mode", f"{image.mode}: values above 255 become white"
    if image.mode == "CMYK":
        return "other mode", "CMYK: colours are approximate"
    has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    if has_alpha and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        return "other mode", f"{image.mode}: what is transparent becomes visible"
    return "", ""


def _perceptual_hash(image: Image.Image) -> bytes:
    """256 bits that stay alike when a picture is resized or compressed anew.

    Nothing for a flat picture, and for values beyond 8 bits, which would all be white.

    Each bit says whether one of 16 x 16 pixels is darker than the next in its row ("dHash").
    Source: N. Krawetz, "Kind of Like That", 2013; here of 16 x 16 rather than 8 x 8.
    """
    if image.mode[0] in "IF":
        return b""
    rgb = image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")
    small = rgb.convert("L").resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, np.int16)
    if np.ptp(grey) < _FLAT:
        return b""
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()
