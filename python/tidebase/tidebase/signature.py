"""Signatures of webhooks."""

from __future__ import annotations

import hashlib
import hmac
from typing import Optional, Union

SIGNATURE_HEADER = "x-tidebase-signature"


def sign_webhook(secret: str, body: Union[bytes, str]) -> str:
    """The signature of a webhook's body.

    Args:
        secret: shared with the sender.
        body: the raw body.

    Returns:
        ``sha256=`` and 64 hex digits.
    """
    return f"sha256={hmac.new(_bytes(secret), _bytes(body), hashlib.sha256).hexdigest()}"


def verify_webhook_signature(secret: str, body: Union[bytes, str], signature: Optional[str]) -> bool:
    """Whether a webhook was signed with a secret; in constant time.

    Args:
        secret: shared with the sender: the webhook secret, or a channel's own.
        body: the raw body, as received: parsing and printing it again changes it.
        signature: the header ``x-tidebase-signature``.
    """
    if not secret or not signature:
        return False
    given = signature.strip().encode("utf-8", "surrogatepass")
    return hmac.compare_digest(sign_webhook(secret, body).encode("ascii"), given)


def _bytes(text: Union[bytes, str]) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
