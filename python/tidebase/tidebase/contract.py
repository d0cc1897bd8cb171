"""The resume contract and the input hash: what the server and every SDK must agree on (shared vectors in
test/conformance)."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any, Dict, Mapping, Optional

_LEGACY = {"retry": "auto", "review": "manual", "fail": "never"}
_DECISIONS = {"auto": "safe_replay", "manual": "manual_review", "never": "fail_hard"}
_LONE = re.compile("[\ud800-\udfff]")


def resume_contract(options: Optional[Mapping[str, Any]]) -> Dict[str, Any]:
    """The contract object of a step: its options (as on the wire) with older spellings read and what is absent as None."""
    given = options or {}

    def first(*values: Any) -> Any:
        return next((value for value in values if value is not None), None)

    effect = given.get("sideEffect")
    return {
        "sideEffects": list(first(given.get("sideEffects"), [effect] if effect and effect != "none" else [])),
        "idempotencyKey": given.get("idempotencyKey"),
        "replay": first(given.get("replay"), _LEGACY.get(given.get("onAmbiguousFailure") or "")),
        "checkpointInvariant": given.get("checkpointInvariant"),
        "verifiedBy": given.get("verifiedBy"),
        "credentials": given.get("credentials"),
    }


def resume_decision(options: Optional[Mapping[str, Any]]) -> str:
    """Whether a step may run again when it is not known how it ended.

    Returns:
        ``safe_replay``, ``manual_review`` or ``fail_hard``. An explicit ``replay`` wins; without side effects (or with
        ``read`` alone) and with an idempotency key it is safe; otherwise somebody has to look.
    """
    contract = resume_contract(options)
    explicit = _DECISIONS.get(contract["replay"] or "")
    if explicit:
        return explicit
    harmless = all(effect in ("read", "none") for effect in contract["sideEffects"])
    return "safe_replay" if harmless or contract["idempotencyKey"] else "manual_review"


def input_hash(value: Any) -> str:
    """The hash of a step's input: sha256 of its stable JSON, 64 lower-case hex digits.

    Args:
        value: any JSON value; absent counts as None.

    Raises:
        TypeError: when it is not JSON.
    """
    return hashlib.sha256(stable_json(value).encode("utf-8")).hexdigest()


def stable_json(value: Any) -> str:
    """JSON with object keys sorted by UTF-16 code unit, no white space, and numbers as ECMAScript prints doubles."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(stable_json(item) for item in value)}]"
    if isinstance(value, dict):
        members = {_key(key): item for key, item in value.items()}
        keys = sorted(members, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return f"{{{','.join(f'{_string(key)}:{stable_json(members[key])}' for key in keys)}}}"
    raise TypeError(f"{type(value).__name__} is not JSON")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    # As json.dumps prints the keys that it accepts.
    text: str = next(iter(json.loads(json.dumps({key: None}, allow_nan=False))))
    return text


def _string(text: str) -> str:
    printed = json.dumps(text, ensure_ascii=False)
    return _LONE.sub(lambda found: f"\\u{ord(found.group()):04x}", printed)


def _number(value: float) -> str:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise TypeError(f"{value if isinstance(value, float) else 'an integer this large'} is not JSON")
    if number == 0:
        return "0"
    sign, digits, exponent = re.fullmatch(r"(-?)([\d.]+)(?:e([+-]\d+))?", repr(number)).groups()  # type: ignore[union-attr]
    whole, _, fraction = digits.partition(".")
    if fraction == "0":
        fraction = ""
    point = len(whole) + int(exponent or 0)
    significant = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(significant)
    significant = significant.rstrip("0")
    count = len(significant)
    if count <= point <= 21:
        return sign + significant + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{significant[:point]}.{significant[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{significant}"
    power = point - 1
    mantissa = significant[0] + (f".{significant[1:]}" if count > 1 else "")
    return f"{sign}{mantissa}e{'+' if power > 0 else '-'}{abs(power)}"
