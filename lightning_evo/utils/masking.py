"""Secrets (keys, tokens, passwords) in configs and texts, masked in whatever leaves this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import Any
from urllib.parse import quote, quote_plus

__all__ = ["SHOW_SECRETS", "Mask", "is_secret_name", "secrets_are_shown"]

SHOW_SECRETS = "LIGHTNING_EVO_SHOW_SECRETS"
"""The environment variable that turns masking off, where it is ``1``."""

_SHORTEST = 8
"""Characters of a value that is masked wherever it appears; a shorter one, perhaps a word, is masked under its name only."""


def _vocabulary(words: str) -> frozenset[str]:
    return frozenset(words.split())


# -- names -------------------------------------------------------------------------------------------------------------

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

_STRONG = _vocabulary(
    "password passwords passwd passwds passphrase passphrases passcode secret secrets credential "
    "credentials creds apikey apikeys authorization authkey authtoken accesskey accesstoken secretkey "
    "privatekey"
)
"""Words that make a name secret, whatever else is in it."""

_KEYS = _vocabulary("api access secret private auth account encryption signing subscription master ssh session")
"""Words that make ``key`` or ``keys`` after them secret."""

_LAST = _vocabulary("token pass pwd auth jwt cookie cookies bearer")
"""Words that make a name secret as its last word."""

_TOKENS = _vocabulary("access api auth bearer refresh session secret id hf github gitlab wandb")
"""Words that make ``tokens`` after them secret."""

_NOT_SECRET = _vocabulary(
    "length len size count num number min max dim dims dimension policy field fields file files filename "
    "path paths dir directory folder name names type types kind env environ variable level format "
    "required strength rule rules ttl expiry expires expiration timeout retries attempts method mode "
    "algorithm enabled dropout loss weight column prompt provider manager class backend"
)
"""Last words of names that are about a secret, but don't hold one: ``password_length``, ``secret_name``."""

_SPECIAL_TOKENS = _vocabulary(
    "pad eos bos unk mask cls sep start end stop begin special separator class image audio video prompt "
    "dist distill register prefix suffix decoder blank sos null filler word next first last"
)
"""Words before ``token`` that make it one of a vocabulary: ``pad_token``."""

# -- values ------------------------------------------------------------------------------------------------------------

_HARMLESS = re.compile(
    r"\s*|none|null|true|false|auto|default|yes|no|on|off|\.|[-+]?[\d.]+(e[-+]?\d+)?"  # settings, numbers as text
    r"|\$\{[^{}]*\}|\$\w+|\{\{.*\}\}"  # where it is to be found
    r"|[\w./~-]+\.(json|pem|key|txt|ya?ml|env|crt|cer|p12|pfx|cfg|ini|toml|netrc)"  # a file of it
    r"|\*+|<[^<>]*>|\[[^\[\]]*\]",  # hidden already; a token of a vocabulary
    re.IGNORECASE,
)
"""Values that are no secret, whatever their name."""

_URL = re.compile(r"(?P<before>\b[a-zA-Z][\w+.-]*://)(?P<user>[^\s/?#'\"<>:@]*)(?P<password>:[^\s/?#'\"<>]*)?@")

_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b",
        r"\bgh[pousr]_[A-Za-z0-9]{20,}\b|\bgithub_pat_\w{20,}",
        r"\bglpat-[\w-]{16,}",
        r"\bhf_[A-Za-z0-9]{20,}\b",
        r"\b(?:sk|pk|rk)[-_](?:live_|test_|proj-|ant-|or-)?[\w-]{20,}",
        r"\bxox[a-z]-[\w-]{10,}",
        r"\bAIza[\w-]{35}",
        r"\bya29\.[\w-]{20,}",
        r"\bnpm_[A-Za-z0-9]{30,}\b|\bpypi-[\w-]{30,}",
        r"\bSG\.[\w-]{16,}\.[\w-]{16,}",
        r"\bwandb_v\d_[\w-]{20,}",
        r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*",
        r"(?<=hooks\.slack\.com/services/)[\w/-]+",
    )
)
"""Values that look like the secrets of well-known services, a private key, or a JSON web token."""

_BEARER = re.compile(r"(?i)\b(bearer|basic)(\s+)(?=[\w~+/.-]*\d)([\w~+/.=-]{8,})")

_ASSIGNED = re.compile(
    r"(?P<name>[A-Za-z][\w.-]*)(?P<sign>['\"]?\s*(?:=>|:=|[=:])\s*|\s+(?=['\"])|(?<=[\w])\s+)"
    r"(?P<value>(?P<quote>['\"])(?:\\.|(?!(?P=quote)).)*(?P=quote)|[^\s,;&'\"()\[\]{}<>]+)"
)
"""In a text: a name with a value, as in Python, JSON, YAML, a query, a connection string, a command line."""


_LONG = 200
"""Characters from which on a text is not remembered."""


def secrets_are_shown() -> bool:
    """Whether masking is turned off in this process."""
    return os.environ.get(SHOW_SECRETS, "").lower() in ("1", "true", "yes", "on")


@cache
def is_secret_name(name: str) -> bool:
    """Whether what has this name (of an argument, a config path's last part) looks like a secret.

    >>> names = ("api_key", "hfToken", "model.init_args.password", "max_tokens", "pad_token")
    >>> [name for name in names if is_secret_name(name)]
    ['api_key', 'hfToken', 'model.init_args.password']
    """
    parts = [part for part in re.split(r"[./]", name) if part not in ("init_args", "dict_kwargs")]
    strong = any(_is_strong(_words(part)) or _is_strong(re.split(r"[\W_]+", part.lower())) for part in parts)
    return strong or (bool(parts) and _is_weak(_words(parts[-1])))


def _words(name: str) -> list[str]:
    words = [word.lower() for word in _WORDS.findall(name)]
    while words and words[-1].isdigit():
        words.pop()
    return words


def _is_strong(words: list[str]) -> bool:
    if not words or words[-1] in _NOT_SECRET:
        return False
    pairs = pairwise(words)
    return bool(_STRONG.intersection(words)) or any(a in _KEYS and b in ("key", "keys") for a, b in pairs)


def _is_weak(words: list[str]) -> bool:
    """Whether the last word says so, which is also the name of harmless things."""
    if not words:
        return False
    before = words[-2] if len(words) > 1 else ""
    if words[-1] == "tokens":
        return before in _TOKENS
    return words[-1] in _LAST and before not in _SPECIAL_TOKENS


class Mask:
    """Replaces secrets by ``***masked-1***``, ``***masked-2***``, the same secret by the same.

    What is masked: texts under names that look secret (see :func:`is_secret_name`), in mappings at any depth and in texts
    (``password='...'``); passwords in URLs; what looks like a key of a well-known service, a private key or a bearer
    token; and every value of at least 8 characters that was found under such a name in ``known``, wherever it appears.
    Numbers, booleans and ``None`` never are.

    Args:
        known: Configs and the like, as plain data, that belong to what is to be masked.

    >>> mask = Mask({"model": {"init_args": {"api_key": "correct-horse", "pad_token": "<pad>", "max_tokens": 512}}})
    >>> mask.text("ValueError: 401 for correct-horse at postgres://bob:pw@db/x")
    'ValueError: 401 for ***masked-1*** at postgres://bob:***masked-2***@db/x'
    """

    def __init__(self, *known: Any) -> None:
        self._off = secrets_are_shown()
        self._labels: dict[str, str] = {}
        self._seen: dict[str, str] = {}  # genes and short errors are repeated in thousands of rows
        self._known: re.Pattern[str] | None = None
        if not self._off:
            for secret in sorted({text for data in known for text in _secrets_in(data, "", False)}, key=str):
                self._label(secret)
            self._known = self._pattern()

    def data(self, value: Any, name: str = "") -> Any:
        """Return plain data with its secrets masked.

        Args:
            value: A mapping, a sequence, a text or anything else, which stays as it is.
            name: The name that it has, such as a config path.
        """
        return value if self._off else self._masked(value, bool(name) and is_secret_name(name))

    def text(self, text: str) -> str:
        """Return a text, such as an error's, with the secrets in it masked."""
        if self._off or not text:
            return text
        if len(text) > _LONG:
            return self._masked_text(text)
        if text not in self._seen:
            self._seen[text] = self._masked_text(text)
        return self._seen[text]

    def _masked_text(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(lambda found: self._labels[_plain(found[0], self._labels)], text)
        text = _URL.sub(self._url, text)
        for pattern in _PATTERNS:
            text = pattern.sub(lambda found: self._label(found[0]), text)
        text = _BEARER.sub(lambda found: f"{found[1]}{found[2]}{self._label(found[3])}", text)
        return self._assignments(text) if _MAY_ASSIGN.search(text) else text

    def paths(self, value: Any) -> list[str]:
        """Return the paths (``model.init_args.api_key``) of the texts in a mapping that are masked."""
        return [] if self._off else [path for path, text in _texts(value, "") if self._at(path, text) != text]

    # -- in data -------------------------------------------------------------------------------------------------------

    def _masked(self, value: Any, secret: bool) -> Any:
        if isinstance(value, str):
            return self._label(value) if secret and not _HARMLESS.fullmatch(value) else self.text(value)
        if isinstance(value, Mapping):
            return {key: self._masked(each, _below(key, secret)) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [
                self._masked(each, secret or (at > 0 and _is_option(value[at - 1]))) for at, each in enumerate(value)
            ]
        return value

    def _at(self, path: str, text: str) -> str:
        return self._masked(text, is_secret_name(path))

    def _label(self, secret: str) -> str:
        if _LABEL.fullmatch(secret):
            return secret
        return self._labels.setdefault(secret, f"***masked-{len(self._labels) + 1}***")

    # -- in texts ------------------------------------------------------------------------------------------------------

    def _pattern(self) -> re.Pattern[str] | None:
        """The known secrets as they may appear in texts, the longest first."""
        forms = {form for secret in self._labels if len(secret) >= _SHORTEST for form in _forms(secret)}
        if not forms:
            return None
        return re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)))

    def _url(self, found: re.Match[str]) -> str:
        user, password = found["user"], found["password"]
        if password is None:  # a long user without a password is a token
            return f"{found['before']}{self._label(user)}@" if len(user) >= 20 else found[0]
        return f"{found['before']}{user}:{self._label(password[1:])}@" if len(password) > 1 else found[0]

    def _assignments(self, text: str) -> str:
        """Mask what is assigned to secret names; what is assigned to others may hold assignments itself."""
        parts, at = [], 0
        while (found := _ASSIGNED.search(text, at)) is not None:
            masked = self._assigned(found)
            until = found.end("sign") if masked is None else found.end()
            parts += [text[at : found.start()], text[found.start() : until] if masked is None else masked]
            at = until
        return "".join([*parts, text[at:]])

    def _assigned(self, found: re.Match[str]) -> str | None:
        name, sign, value = found["name"], found["sign"], found["value"]
        quoted = value[1:-1] if found["quote"] else value
        prose = not re.search(r"[=:]", sign)
        if prose and not (found.start() >= 2 and found.string[found.start() - 2 : found.start()] == "--"):
            return None
        words = _words(re.split(r"[./]", name)[-1])
        # "Unexpected token: x" is a sentence; token=x, 'token': 'x' and access_token: x are not.
        weak = _is_weak(words) and (len(words) > 1 or "=" in sign or prose or sign[0] in "'\"" or bool(found["quote"]))
        if not (_is_strong(words) or weak) or _HARMLESS.fullmatch(quoted) or _LABEL.search(quoted):
            return None
        if quoted.lower() in ("bearer", "basic"):
            return None
        shown = self._label(quoted)
        return f"{name}{sign}{found['quote'] or ''}{shown}{found['quote'] or ''}"


_LABEL = re.compile(r"\*\*\*masked-\d+\*\*\*")
_MAY_ASSIGN = re.compile(r"(?i)pass|pwd|secret|cred|key|auth|token|jwt|cookie|bearer")
_WITHIN = frozenset(("class_path", "distribution"))
"""Keys whose values name a kind, even under a secret name."""


def _below(key: Any, secret: bool) -> bool:
    return key not in _WITHIN and (secret or (isinstance(key, str) and is_secret_name(key)))


def _is_option(text: Any) -> bool:
    """Whether a text is an option of a command line whose value comes next."""
    return isinstance(text, str) and text.startswith("--") and "=" not in text and is_secret_name(text)


def _secrets_in(value: Any, name: str, secret: bool) -> Iterator[str]:
    """The values under names that look secret."""
    if isinstance(value, str):
        if secret and not _HARMLESS.fullmatch(value) and not _LABEL.fullmatch(value):
            yield value
        for found in _URL.finditer(value):
            if found["password"] and len(found["password"]) > 1:
                yield found["password"][1:]
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _secrets_in(each, str(key), _below(key, secret))
    elif isinstance(value, (list, tuple)):
        for at, each in enumerate(value):
            yield from _secrets_in(each, name, secret or (at > 0 and _is_option(value[at - 1])))


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key not in _WITHIN:
                yield from _texts(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each, path)


def _forms(secret: str) -> set[str]:
    """A secret as it is, in a URL, and in the ``repr`` of a text."""
    return {secret, quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace"), repr(secret)[1:-1]}


def _plain(form: str, secrets: Mapping[str, str]) -> str:
    return form if form in secrets else next(secret for secret in secrets if form in _forms(secret))
