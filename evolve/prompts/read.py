"""From a member's reply to a candidate: parsed leniently, edited strictly.

A reply is SEARCH/REPLACE blocks or one fenced block with the whole file (or the inside of the EVOLVE-BLOCK). Text that
must be found is found exactly, else ignoring white space, else where one single place resembles it closely; whatever
was used is said. Nothing outside the EVOLVE-BLOCK changes. Whether the result is any good is not asked here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from openevolve.utils.code_utils import enforce_evolve_blocks, extract_diffs, parse_evolve_blocks
from rapidfuzz.distance import Indel

from evolve.types import Asked, Candidate, Draw, Reply

# A file longer than this is no kernel; the screen has the same limit.
LONGEST = 100_000
ALIKE = 0.8  # of the characters, for a fuzzy match
CLEARER = 0.1  # and the second-best place must be that much worse

# A longer fence than usual holds code with fences in it.
_FENCE = re.compile(r"^[ \t]*(`{3,})[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)
# A label at a line's beginning, whatever it is adorned with, and its paragraph: up to a blank line, a block of code, or
# the next label. The second may also stand in the first one's line.
_LABELLED = r"^[ \t>*#_-]*{}[ \t*_]*:[ \t*_]*(.*(?:\n(?![ \t]*(?:\n|```|<<<<<<<)|[ \t>*#_-]*\w+[ \t*_]*:).+)*)"
_HYPOTHESIS, _PREDICTION = (
    re.compile(_LABELLED.format(label), re.IGNORECASE | re.MULTILINE) for label in ("hypothesis", "predictions?")
)
_INLINE = re.compile(r"[ \t*_]*\b(?:prediction|predicted|expected?)[ \t*_]*:[ \t*_]*", re.IGNORECASE)


class Unreadable(Exception):
    """Why no candidate could be made of a reply; told to its member."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    source: str
    how: str  # "exact", "white space", "fuzzy", "rewrite"


def read(reply: Reply, asked: Asked, draw: Draw) -> Candidate | str:
    """The candidate that the reply describes, or the sentence that says why there is none."""
    base = draw.failures[-1] if asked.prompt.kind == "fix" and draw.failures else draw.parent
    try:
        edit = edited(reply.text, base.candidate.source if base else None)
    except Unreadable as why:
        return str(why)
    return Candidate(
        step=asked.step,
        source=edit.source,
        member=reply.member,
        kind=asked.prompt.kind,
        parent_id=draw.parent.id if draw.parent else None,
        inspiration_ids=asked.inspiration_ids,
        island=draw.island,
        generation=draw.parent.candidate.generation + 1 if draw.parent else 0,
        hypothesis=reply.hypothesis or hypothesis_of(reply.text),
        prediction=prediction_of(reply.text),
        matched=edit.how,
    )


def hypothesis_of(text: str) -> str:
    return _INLINE.split(_paragraph(_HYPOTHESIS, text), maxsplit=1)[0].strip()


def prediction_of(text: str) -> str:
    """What it says should be measured; often it follows the hypothesis in the same line."""
    found = _paragraph(_PREDICTION, text)
    return found or "".join(_INLINE.split(_paragraph(_HYPOTHESIS, text), maxsplit=1)[1:]).strip()


def _paragraph(label: re.Pattern[str], text: str) -> str:
    found = label.search(text[: 10 * LONGEST].replace("\r\n", "\n"))
    return " ".join(found.group(1).split()).rstrip("*_ ")[:1000] if found else ""


def edited(text: str, base: str | None) -> Edit:
    """`base` with the reply's edit applied; without a base the reply must hold a whole file."""
    if len(text) > 10 * LONGEST:
        raise Unreadable(f"The reply has {len(text):,} characters; a kernel and its reasons fit in {10 * LONGEST:,}.")
    text = text.replace("\r\n", "\n")
    edit = _by_diff(text, base) if base is not None and "<<<<<<< SEARCH" in text else _by_rewrite(text, base)
    if len(edit.source) > LONGEST:
        raise Unreadable(f"The file would have {len(edit.source):,} characters; at most {LONGEST:,} are judged.")
    try:
        edit.source.encode("utf-8")
    except UnicodeEncodeError:
        raise Unreadable("The code holds characters that UTF-8 cannot write (lone surrogates).") from None
    if base is not None and edit.source == base:
        raise Unreadable("The reply leaves the file as it was; change something, or say in the hypothesis why not.")
    return edit


def _by_diff(text: str, base: str) -> Edit:
    try:
        blocks = extract_diffs(text)
    except ValueError as error:
        raise Unreadable(
            f"SEARCH/REPLACE blocks do not parse: {error}. Write them one after another, unnested."
        ) from None
    if not blocks:
        raise Unreadable("A SEARCH marker without its ======= and REPLACE lines; was the reply cut off?")
    source, used = base, "exact"
    for search, replacement in blocks:
        if not search.strip():
            raise Unreadable("A SEARCH block is empty; quote the lines that the new ones shall replace.")
        if "EVOLVE-BLOCK" in replacement or "EVOLVE-BLOCK" in search:
            raise Unreadable("A SEARCH/REPLACE block touches an EVOLVE-BLOCK marker; edit between the markers only.")
        source, how = _replace_once(source, search, replacement)
        used = max(used, how, key=("exact", "white space", "fuzzy").index)
    return Edit(source=_only_inside(base, source), how=used)


def _replace_once(source: str, search: str, replacement: str) -> tuple[str, str]:
    lines, wanted = source.split("\n"), search.split("\n")
    at, how = _find(lines, wanted)
    new = replacement.split("\n") if replacement else []
    if how != "exact" and new:
        new = _reindent(new, wanted[0], lines[at])
    return "\n".join([*lines[:at], *new, *lines[at + len(wanted) :]]), how


def _find(lines: list[str], wanted: list[str]) -> tuple[int, str]:
    for how, key in (("exact", str.rstrip), ("white space", "".join)):
        squeeze = key if how == "exact" else _squeezed
        want = [squeeze(line) for line in wanted]
        have = [squeeze(line) for line in lines]
        places = [i for i in range(len(have) - len(want) + 1) if have[i : i + len(want)] == want]
        if len(places) == 1:
            return places[0], how
        if places:
            raise Unreadable(
                f"SEARCH text stands {len(places)} times (lines {', '.join(str(p + 1) for p in places[:5])}): "
                "quote more lines around it, so that it is found once.\n" + "\n".join(wanted)
            )
    return _find_alike(lines, wanted), "fuzzy"


def _squeezed(line: str) -> str:
    return "".join(line.split())


def _find_alike(lines: list[str], wanted: list[str]) -> int:
    text = "\n".join(wanted)
    windows = range(max(1, len(lines) - len(wanted) + 1))
    alike = sorted(
        ((Indel.normalized_similarity(text, "\n".join(lines[i : i + len(wanted)])), -i) for i in windows), reverse=True
    )
    (best, at), second = alike[0], alike[1][0] if len(alike) > 1 else 0.0
    if best >= ALIKE and best - second >= CLEARER:
        return -at
    nearest = "\n".join(lines[-at : -at + len(wanted)])
    raise Unreadable(f"SEARCH text is not in the file:\n{text}\nThe nearest is ({best:.0%} alike):\n{nearest}")


def _reindent(new: list[str], quoted: str, found: str) -> list[str]:
    """Members often quote a block without its indentation; what they write then lacks it too."""
    lacks = len(found) - len(found.lstrip()) - (len(quoted) - len(quoted.lstrip()))
    if lacks > 0:
        return [" " * lacks + line if line.strip() else line for line in new]
    return [line[-lacks:] if lacks and line[:-lacks].isspace() else line for line in new]


def _by_rewrite(text: str, base: str | None) -> Edit:
    blocks = [body for _, language, body in _FENCE.findall(text) if language.lower() in ("python", "py", "triton", "")]
    code = max(blocks, key=len, default="")
    if not code.strip():
        raise Unreadable(
            "No code found: expected one ```python block with the whole file, or SEARCH/REPLACE blocks."
            + (" The reply opens a fence and never closes it; was it cut off?" if "```" in text else "")
        )
    code = code if code.endswith("\n") else code + "\n"
    if base is None:
        return Edit(source=code, how="rewrite")
    if "EVOLVE-BLOCK-START" in base and "EVOLVE-BLOCK-START" not in code and "import triton" not in code:
        return Edit(source=_into_block(base, code), how="rewrite")
    return Edit(source=_only_inside(base, code), how="rewrite")


def _into_block(base: str, inside: str) -> str:
    """The reply gave the inside of the block only."""
    if "EVOLVE-BLOCK" in inside:
        raise Unreadable("The code has one EVOLVE-BLOCK marker and not the other; give the whole file, with both.")
    lines = base.split("\n")
    start, end, _ = parse_evolve_blocks(base)[0]
    return "\n".join([*lines[: start + 1], *inside.rstrip("\n").split("\n"), *lines[end:]])


def _only_inside(base: str, source: str) -> str:
    """`source`, if it differs from `base` between the markers only; layout and comments outside are put back."""
    blocks = parse_evolve_blocks(base)
    if not blocks:
        return source
    if "EVOLVE-BLOCK-START" not in source:
        raise Unreadable("The EVOLVE-BLOCK markers are gone; keep both lines and edit between them.")
    try:
        restored: str = enforce_evolve_blocks(base, source)
    except ValueError as error:
        raise Unreadable(f"{error}; keep both marker lines and edit between them.") from None
    if _outside(restored) != _outside(source):
        raise Unreadable("The reply changes lines outside the EVOLVE-BLOCK; edit between the markers only.")
    return restored


def _outside(source: str) -> list[str]:
    """What stands outside the blocks, without comments, docstring and layout: the lines that Python would act on."""
    lines = source.split("\n")
    for start, end, _ in reversed(parse_evolve_blocks(source)):
        del lines[start : end + 1]
    text = re.sub(r'(""".*?"""|\'\'\'.*?\'\'\')', "", "\n".join(lines), flags=re.DOTALL)
    return [squeezed for line in text.split("\n") if (squeezed := _squeezed(line.split("#")[0]))]
