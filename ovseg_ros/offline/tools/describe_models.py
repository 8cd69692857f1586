"""Language models that describe words: a server by HTTP, or a model on this machine."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ovseg_ros.core.errors import ConfigError, OvsegError
from ovseg_ros.core.vocabulary.lists import show
from ovseg_ros.offline.tools.describe_prompt import SCHEMA, AnswerFault

Messages = Sequence[Mapping[str, str]]
Ask = Callable[[Messages], str]
"""A model: messages -> its answer. AnswerFault if there is none, ModelError if asking again would not help."""

_MOST_TOKENS = 1024
_LOCAL_TOKENS = 256
"""Of an answer; a server's model may think before."""
_MOST_BYTES = 1 << 20
_TRIES = 5
_LONGEST_WAIT = 60.0
"""Seconds between two tries, whatever a server asks for."""
_KEYS = ("OVSEG_API_KEY", "OPENAI_API_KEY")


class ModelError(OvsegError):
    """A language model cannot be reached or loaded, told for people."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET, and carries the key to whoever it is sent on to."""

    def redirect_request(self, *_: Any) -> None:
        """Never."""


class ChatServer:
    """A server that speaks OpenAI's chat completions."""

    def __init__(self, url: str, model: str, timeout: float, wait: Callable[[float], None] = time.sleep) -> None:
        """`wait` lets seconds pass between two tries."""
        self._address, self._model, self._timeout, self._wait = _address(url), model, timeout, wait
        self._key = next((os.environ[name].strip() for name in _KEYS if os.environ.get(name, "").strip()), "")
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(f"the key in {' or '.join(_KEYS)} has characters that no key has; set it again")
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._with_schema = True

    def __call__(self, messages: Messages) -> str:
        """See `Ask`."""
        body: dict[str, Any] = {"model": self._model, "messages": list(messages), "temperature": 0}
        body |= {"max_tokens": _MOST_TOKENS, "stream": False}
        if self._with_schema:
            try:
                schema = {"name": "description", "strict": True, "schema": SCHEMA}
                return self._content(
                    self._post({**body, "response_format": {"type": "json_schema", "json_schema": schema}})
                )
            except _BadRequest:
                answer = self._content(self._post(body))
                self._with_schema = False  # what the server refused was the schema
                return answer
        return self._content(self._post(body))

    def _post(self, body: Mapping[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._address, json.dumps(body).encode(), headers)
        for left in reversed(range(_TRIES)):
            try:
                with self._opener.open(request, timeout=self._timeout) as response:
                    content: bytes = response.read(_MOST_BYTES + 1)
                if len(content) > _MOST_BYTES:
                    raise AnswerFault(f"the answer is larger than {_MOST_BYTES} bytes")
                return self._without_key(content)
            except urllib.error.HTTPError as error:
                with error:
                    fault = self._fault(error)
                    pause = _pause(error.headers, _TRIES - left)
                if isinstance(fault, _BadRequest) or not left or (error.code != 429 and error.code < 500):
                    raise fault from error
            except (OSError, HTTPException, UnicodeError) as error:  # URLError and time-outs are OSErrors
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                if not left or not isinstance(reason, (TimeoutError, ConnectionResetError, HTTPException)):
                    raise ModelError(
                        f"{self._address} does not answer: {str(reason) or type(reason).__name__}; see whether the "
                        "server runs, correct --url or raise --timeout"
                    ) from error
                pause = _pause(None, _TRIES - left)
            self._wait(pause)
        raise AssertionError(_TRIES)

    def _fault(self, error: urllib.error.HTTPError) -> ModelError:
        try:
            text = self._without_key(error.read(2000)).decode(errors="replace")
        except (OSError, HTTPException):
            text = ""
        said = " ".join(text.split())[:200]
        match error.code:
            case 400 | 422:
                remedy = "see what the server takes"
            case 401 | 403:
                remedy = f"put the server's key into {_KEYS[0]}"
            case 404:
                remedy = "correct --url or --model"
            case 429:
                remedy = "wait, and run the same command again, which goes on"
            case code if code < 400:
                address = self._without_key(error.headers.get("Location", "").encode()).decode()
                remedy = f"give the address {show(address)} as --url, if you trust it"
            case _:
                remedy = "see the server's log, and run the same command again, which goes on"
        kind = _BadRequest if error.code in (400, 422) else ModelError
        return kind(f"{self._address} answers with status {error.code}: {said or 'nothing'}; {remedy}")

    def _without_key(self, said: bytes) -> bytes:
        """What a server says may be printed, and some send back what they were sent."""
        return said.replace(self._key.encode(), b"***") if self._key else said

    @staticmethod
    def _content(body: bytes) -> str:
        try:
            content = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            found = show(body[:200].decode(errors="replace"))
            raise AnswerFault(f"the server's answer {found} is no chat completion") from error
        if not isinstance(content, str):
            raise AnswerFault(f"the server's answer has the content {show(content)}, expected text")
        return content


class _BadRequest(ModelError):
    """The server does not take what it was asked."""


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(
            f"--url {show(url)} is no address: {error}; expected such as http://localhost:8080"
        ) from error
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise ConfigError(
            f"--url {show(url)} is no address; expected http:// or https://, such as http://localhost:8080"
        )
    if parts.username or parts.password:
        raise ConfigError(f"--url has a user's name or password in it; leave it out and put the key into {_KEYS[0]}")
    if parts.query or parts.fragment:
        raise ConfigError(
            f"--url {show(url)} has a '?' or '#'; expected the address alone, such as http://localhost:8080"
        )
    base = url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
    return f"{base}/v1/chat/completions"


def _pause(headers: Message | None, tries: int) -> float:
    """Seconds to wait: those that the server asks for, in seconds or as a date, else twice as long at each try."""
    asked = (headers.get("Retry-After") if headers is not None else None) or ""
    seconds = 2.0 ** (tries - 1)
    if asked.strip().isdecimal():
        seconds = float(asked)
    elif asked:
        with suppress(ValueError, OverflowError):
            seconds = parsedate_to_datetime(asked).timestamp() - time.time()
    return min(max(seconds, 0.0), _LONGEST_WAIT)


class LocalModel:
    """A model of transformers' on this machine, asked greedily."""

    def __init__(self, source: Path, device: str) -> None:
        """`source`: a folder with its config, weights and tokenizer, or one GGUF file."""
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from ovseg_ros.core.devices import pick_device

        gguf = source.name if source.suffix.lower() == ".gguf" else None
        if not (source.is_file() if gguf else source.is_dir()):
            raise ConfigError(
                f"--model {source} is not there; expected a model's folder or a .gguf file on this machine"
            )
        if gguf and find_spec("gguf") is None:
            raise ConfigError(f"--model {source} needs the Python package gguf; install it, or give a model's folder")
        target = pick_device(device)
        options: dict[str, Any] = {"gguf_file": gguf} if gguf else {}
        folder = str(source.parent if gguf else source)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
            model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, **options
            )
            self._model = model.to(target).eval()
        except (OSError, ValueError, LookupError, RuntimeError, ImportError, TypeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ModelError(f"--model {source} cannot be loaded: {reason}; give another model") from error

    def __call__(self, messages: Messages) -> str:
        """See `Ask`."""
        import torch

        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
            tokens = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)
        else:
            tokens = self._tokenizer("\n\n".join([*(m["content"] for m in messages), ""]), return_tensors="pt")
        asked = tokens["input_ids"].to(self._model.device)
        limit = self._model.config.to_dict().get("max_position_embeddings", _MOST_TOKENS)
        room = limit - asked.shape[1]
        if room < 1:
            raise ModelError(f"the question has {asked.shape[1]} tokens, the model reads {limit}; give another --model")
        with torch.inference_mode():
            told = self._model.generate(
                asked,
                attention_mask=torch.ones_like(asked),
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=min(room, _LOCAL_TOKENS),
                pad_token_id=self._tokenizer.eos_token_id,
            )
        return str(self._tokenizer.decode(told[0, asked.shape[1] :], skip_special_tokens=True))
