"""The part of llama.cpp's C interface that is used here, called through ctypes in a child process.

Structures that are passed by value have changed between releases. Two are taken as llama.cpp fills them in,
in more room than any release needs, and the few fields that are set are looked for: the sizes are the first
four numbers since they exist, and the callback stands before the types of the cache, which have a pattern
that nothing else has. A library that looks otherwise is refused and not guessed at.

Interface: ``include/llama.h`` and ``ggml/include/ggml-backend.h`` of llama.cpp.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["LlamaLibrary", "LlamaModel", "LlamaProblem"]

_ROOM: Final = 1024
_SIZES: Final = struct.Struct("<4I")
_SIZES_BY_DEFAULT: Final = (512, 2048, 512, 1)
"""``n_ctx``, ``n_batch``, ``n_ubatch`` and ``n_seq_max`` of ``llama_context_default_params``."""
# defrag_thold, cb_eval, cb_eval_user_data, type_k, type_v.
_BEFORE_CALLBACK: Final = struct.Struct("<f")
_CALLBACK: Final = struct.Struct("<QQ")
_CALLBACK_BY_DEFAULT: Final = _BEFORE_CALLBACK.pack(-1.0) + _CALLBACK.pack(0, 0) + struct.pack("<ii", 1, 1)
_CPU_DEVICE: Final = 0
"""``GGML_BACKEND_DEVICE_TYPE_CPU``."""

Logger: Final[Any] = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
Watcher: Final[Any] = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
"""``ggml_backend_sched_eval_callback``: a tensor's address, and whether it asks or tells."""


class LlamaProblem(Exception):  # noqa: N818  It is what a child says, and no error that leaves this distribution.
    """llama.cpp cannot do what was asked; the message says what."""


class _Parameters(ctypes.Structure):
    """``struct llama_model_params`` or ``struct llama_context_params``, of any release."""

    _fields_ = (("room", ctypes.c_ubyte * _ROOM),)


class _Batch(ctypes.Structure):
    """``struct llama_batch``."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


class LlamaLibrary:
    """A loaded library.

    Args:
        path: Where it is.
        log: Told what llama.cpp logs, in pieces of lines.

    Raises:
        LlamaProblem: It cannot be loaded, lacks a function, or has structures that are not known here.
    """

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        try:
            self.c: ctypes.CDLL = ctypes.CDLL(str(path))
            self._declare()
        except (OSError, AttributeError) as error:
            raise LlamaProblem(f"{path} cannot be used as libllama: {error}") from error
        self._logger = Logger(lambda _level, text, _data: log(text.decode(errors="replace")))
        self.c.llama_log_set(self._logger, None)
        self.c.llama_backend_init()
        # A library may bring its computing parts as files beside it, or beside its programs.
        for folder in (path.parent, path.parent.parent / "bin"):
            if not self.c.ggml_backend_dev_by_type(_CPU_DEVICE):
                self.c.ggml_backend_load_all_from_path(str(folder).encode())
        if not self.c.ggml_backend_dev_by_type(_CPU_DEVICE):
            raise LlamaProblem(f"{path} has nothing that computes on a CPU, and nothing beside it has")

    def _declare(self) -> None:
        pointer, number = ctypes.c_void_p, ctypes.c_int32
        declared: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "ggml_backend_dev_by_type": (pointer, (ctypes.c_int,)),
            "ggml_backend_load_all_from_path": (None, (ctypes.c_char_p,)),
            "llama_batch_init": (_Batch, (number, number, number)),
            "llama_context_default_params": (_Parameters, ()),
            "llama_decode": (number, (pointer, _Batch)),
            "llama_get_logits": (pointer, (pointer,)),
            "llama_get_memory": (pointer, (pointer,)),
            "llama_init_from_model": (pointer, (pointer, _Parameters)),
            "llama_log_set": (None, (Logger, pointer)),
            "llama_memory_clear": (None, (pointer, ctypes.c_bool)),
            "llama_model_default_params": (_Parameters, ()),
            "llama_model_get_vocab": (pointer, (pointer,)),
            "llama_model_load_from_file": (pointer, (ctypes.c_char_p, _Parameters)),
            "llama_model_n_ctx_train": (number, (pointer,)),
            "llama_set_n_threads": (None, (pointer, number, number)),
            "llama_tokenize": (
                number,
                (pointer, ctypes.c_char_p, number, pointer, number, ctypes.c_bool, ctypes.c_bool),
            ),
            "llama_vocab_bos": (number, (pointer,)),
            "llama_vocab_get_add_bos": (ctypes.c_bool, (pointer,)),
            "llama_vocab_n_tokens": (number, (pointer,)),
        }
        for name, (result, arguments) in declared.items():
            function = getattr(self.c, name)
            function.restype, function.argtypes = result, arguments

    def context_parameters(self, length: int, batch: int, watcher: Any = None) -> _Parameters:
        """Those of a context for one text of ``length`` tokens, of which ``batch`` are computed at once."""
        parameters = self.c.llama_context_default_params()
        raw = bytes(parameters.room)
        callback = raw.find(_CALLBACK_BY_DEFAULT) + _BEFORE_CALLBACK.size
        if (
            _SIZES.unpack_from(raw) != _SIZES_BY_DEFAULT
            or raw.count(_CALLBACK_BY_DEFAULT) != 1
            or callback % ctypes.sizeof(ctypes.c_void_p)
        ):
            raise LlamaProblem("its structures are of a release that is not known here")
        _SIZES.pack_into(parameters.room, 0, length, batch, batch, 1)
        if watcher is not None:
            _CALLBACK.pack_into(parameters.room, callback, ctypes.cast(watcher, ctypes.c_void_p).value or 0, 0)
        return parameters  # type: ignore[no-any-return]  # ctypes does not tell.


class LlamaModel:
    """A model, with room for one text.

    Args:
        library: What runs it.
        path: The GGUF file.
        context: Tokens that a text may have; fewer where the model was trained for fewer.
        batch: Tokens that are computed at once, so that logits are held of no more.
        threads: CPU threads to compute with.
        watcher: A :data:`Watcher` to be told of each tensor that is computed.

    Raises:
        LlamaProblem: It cannot be loaded, or there is no memory for it.
    """

    def __init__(
        self, library: LlamaLibrary, path: Path, *, context: int, batch: int, threads: int, watcher: Any = None
    ) -> None:
        self._c = library.c
        self._batch_size = batch
        model = self._c.llama_model_load_from_file(str(path).encode(), self._c.llama_model_default_params())
        if not model:
            raise LlamaProblem(f"llama.cpp cannot load {path}")
        self.context: int = min(context, self._c.llama_model_n_ctx_train(model))
        self._context = self._c.llama_init_from_model(model, library.context_parameters(self.context, batch, watcher))
        if not self._context:
            raise LlamaProblem(f"llama.cpp has no room for {self.context} tokens of {path}")
        self._c.llama_set_n_threads(self._context, threads, threads)
        self._vocabulary = self._c.llama_model_get_vocab(model)
        self._batch = self._c.llama_batch_init(batch, 0, 1)
        self.vocabulary: int = self._c.llama_vocab_n_tokens(self._vocabulary)
        adds = self._c.llama_vocab_get_add_bos(self._vocabulary)
        self.begins_with: int | None = self._c.llama_vocab_bos(self._vocabulary) if adds else None

    def tokenize(self, text: bytes) -> list[int]:
        """Tokens of a text, with what the model wants before and after it; what looks special in it is text."""
        room = len(text) + 8
        # A space may become three tokens; then it says how much room there has to be.
        for _ in range(2):
            tokens = (ctypes.c_int32 * room)()
            count = self._c.llama_tokenize(self._vocabulary, text, len(text), tokens, room, True, False)
            if count >= 0:
                return tokens[:count]
            room = -count
        raise LlamaProblem(f"llama.cpp cannot tokenize a text of {len(text)} bytes")

    def decode(self, tokens: Sequence[int], first: int, take: Callable[[memoryview, int], None]) -> None:
        """Runs the model on a text; hands over the logits after each token from the ``first`` on.

        Args:
            tokens: The text.
            first: Position of the first token whose logits are wanted.
            take: Is given float32 numbers as bytes, and how many rows of ``vocabulary`` they are.
        """
        self._c.llama_memory_clear(self._c.llama_get_memory(self._context), True)
        at = 0
        while at < len(tokens):
            # A batch has logits of all of its tokens or of none: no more of them are held than are wanted.
            end = min(at + self._batch_size, len(tokens) if at >= first else first)
            self._decode(tokens[at:end], at, wanted=at >= first)
            if at >= first:
                rows = end - at
                address = self._c.llama_get_logits(self._context)
                numbers = (ctypes.c_float * (rows * self.vocabulary)).from_address(address)
                take(memoryview(numbers).cast("B"), rows)
            at = end

    def _decode(self, tokens: Sequence[int], at: int, *, wanted: bool) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place] = token
            batch.pos[place] = at + place
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = 0
            batch.logits[place] = wanted
        if failed := self._c.llama_decode(self._context, batch):
            raise LlamaProblem(f"llama.cpp cannot compute {len(tokens)} tokens: llama_decode gave {failed}")
