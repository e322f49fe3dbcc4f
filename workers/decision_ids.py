"""Decision ids: signed tokens that carry what feedback needs, so that learning looks up no past decision.

Layout, big-endian, before base64url without padding::

    version  u8 = 1 or 2   key id  u8
    time     u32           seconds since 1970, when the decision was made
    propensity  f32        in (0, 1]
    map      8 bytes       the first half of the cluster map's version
    cells    u8 count, then one u16 per resolution
    shares   in version 2: u8 count, then for each a cell, u16, and its 128ths of an observation, u8
    llm      u8 length, UTF-8
    prompt   u8 length, UTF-8
    mac      16 bytes      HMAC-SHA256 over all before it, truncated to 128 bits

Version 1 is that of a prompt that lies wholly in its cells, as every prompt does under a hard map.
Feedback that quotes a token the signing key did not make is refused, whoever sends it.
"""

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from routing.clusters import Share
from workers.errors import PoisonError, UsageError
from workers.settings import Settings

_WHOLE, _SPLIT = 1, 2
_VERSIONS = (_WHOLE, _SPLIT)
_HEAD = struct.Struct(">BBIf8s")
_SHARE = struct.Struct(">HB")
_MAC_BYTES = 16
_MIN_KEY_BYTES = 16
_UNREADABLE = "it is no decision id: quote it as the reply gave it"
#: A prompt id or the name of an LLM is at most this long in UTF-8, so that its length fits one byte.
MAX_NAME_BYTES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionFacts:
    """What a decision id says."""

    prompt_id: str
    llm: str
    #: The version of the cluster map: 16 hex digits.
    map_version: str
    #: The prompt's cell in each of the map's resolutions.
    cells: tuple[int, ...]
    #: The cells that an observation of the prompt is split over, each with its parts of ``PARTS`` in its
    #: resolution; empty where each of ``cells`` counts it whole.
    shares: tuple[Share, ...] = ()
    #: Probability with which the policy chose the LLM; in (0, 1].
    propensity: float
    #: Seconds since 1970, when the decision was made.
    decided_at: int


class DecisionSigner:
    """Makes and reads decision ids.

    ``keys`` maps key ids (0..255) to secrets of at least 16 bytes, ``UsageError`` for a shorter one;
    ``current`` is the id that signs. Older keys still verify, so a key is rotated by adding a new one first.
    """

    def __init__(self, keys: Mapping[int, bytes], *, current: int) -> None:
        short = [key_id for key_id, key in keys.items() if len(key) < _MIN_KEY_BYTES]
        if short:
            raise UsageError(
                f"signing key {short[0]} has fewer than {_MIN_KEY_BYTES} bytes: set UNIROUTE_SIGNING_KEY"
            )
        self._keys = dict(keys)
        self._current = current

    def sign(self, facts: DecisionFacts) -> str:
        """Give the token of a decision."""
        head = _HEAD.pack(
            _SPLIT if facts.shares else _WHOLE,
            self._current,
            facts.decided_at,
            facts.propensity,
            bytes.fromhex(facts.map_version),
        )
        cells = struct.pack(f">B{len(facts.cells)}H", len(facts.cells), *facts.cells)
        if facts.shares:
            cells += bytes([len(facts.shares)]) + b"".join(_SHARE.pack(*share) for share in facts.shares)
        body = head + cells + _short_text(facts.llm) + _short_text(facts.prompt_id)
        return base64.urlsafe_b64encode(body + self._mac(body, self._current)).rstrip(b"=").decode()

    def verify(self, token: str) -> DecisionFacts:
        """Read a token.

        Raises ``PoisonError`` of class ``forged_decision`` where it was not signed by a known key, and
        ``malformed_decision`` where it is no token at all.
        """
        try:
            raw = base64.b64decode(
                token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True
            )
        except (UnicodeEncodeError, binascii.Error) as error:
            raise PoisonError("malformed_decision", "the decision id is not base64url text") from error
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if len(body) < _HEAD.size or body[0] not in _VERSIONS or body[1] not in self._keys:
            raise PoisonError(
                "malformed_decision", "the decision id is cut short, or of another version or key"
            )
        if not hmac.compare_digest(mac, self._mac(body, body[1])):
            raise PoisonError(
                "forged_decision", "the decision id's signature is wrong: quote it as the reply gave it"
            )
        return _read(body)

    def _mac(self, body: bytes, key_id: int) -> bytes:
        return hmac.new(self._keys[key_id], body, hashlib.sha256).digest()[:_MAC_BYTES]


def make_signer(settings: Settings) -> DecisionSigner:
    """Give what signs with the installation's keys; ``UsageError`` where none is set."""
    if not settings.signing_key.get_secret_value():
        raise UsageError(
            "no signing key: set UNIROUTE_SIGNING_KEY to 16 characters or more, everywhere the same"
        )
    keys = {**settings.retired_keys, settings.signing_key_id: settings.signing_key}
    return DecisionSigner(
        {key_id: key.get_secret_value().encode() for key_id, key in keys.items()},
        current=settings.signing_key_id,
    )


def read_facts(token: str) -> DecisionFacts:
    """Give what a token says, signed here or not; ``PoisonError`` ``malformed_decision`` if it is none."""
    try:
        raw = base64.b64decode(
            token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True
        )
        facts = _read(raw[:-_MAC_BYTES])
    except (UnicodeError, binascii.Error, struct.error, IndexError) as error:
        raise PoisonError(
            "malformed_decision", "it is no decision id: quote it as the reply gave it"
        ) from error
    if raw[0] not in _VERSIONS or not facts.llm or not facts.prompt_id:
        raise PoisonError("malformed_decision", _UNREADABLE)
    return facts


def _short_text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > MAX_NAME_BYTES:
        raise ValueError(
            f"{text[:20]!r}... has {len(raw)} bytes in UTF-8, at most {MAX_NAME_BYTES} fit a decision id"
        )
    return bytes([len(raw)]) + raw


def _read(body: bytes) -> DecisionFacts:
    _, _, decided_at, propensity, map_version = _HEAD.unpack_from(body)
    count = body[_HEAD.size]
    cells = struct.unpack_from(f">{count}H", body, _HEAD.size + 1)
    at = _HEAD.size + 1 + 2 * count
    shares: tuple[Share, ...] = ()
    if body[0] == _SPLIT:
        end = at + 1 + _SHARE.size * body[at]
        shares = tuple(_SHARE.iter_unpack(body[at + 1 : end]))
        at = end
    llm_end = at + 1 + body[at]
    prompt_end = llm_end + 1 + body[llm_end]
    return DecisionFacts(
        prompt_id=body[llm_end + 1 : prompt_end].decode(),
        llm=body[at + 1 : llm_end].decode(),
        map_version=map_version.hex(),
        cells=cells,
        shares=shares,
        propensity=propensity,
        decided_at=decided_at,
    )
