"""Every error llamatelemetry raises into an application, in one hierarchy.

A message says what happened, why, and what to do next; the facts it is built from are kept as
attributes, so that a program can act on them without parsing the text. ``error_type`` is the
low-cardinality value that spans and metrics carry as ``error.type``.
"""

from __future__ import annotations

from typing import Any


class LlamatelemetryError(Exception):
    """Base of every error raised by llamatelemetry and its plugins.

    Attributes:
        partial: The :class:`InferenceResult` of what had been generated when a request failed.
    """

    partial: Any = None

    @property
    def error_type(self) -> str:
        """Low-cardinality name for the ``error.type`` attribute: the class name."""
        return type(self).__name__


class InvalidValueError(LlamatelemetryError, ValueError):
    """A value given by the caller cannot be used.

    Attributes:
        field: Name of the argument, environment variable or request field, with its path.
        value: The rejected value.
        fix: What to give instead.
    """

    def __init__(self, field: str, value: Any, fix: str) -> None:
        self.field = field
        self.value = value
        self.fix = fix
        shown = repr(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        super().__init__(f"{field}={shown} is not valid: {fix}")


class ConfigurationError(InvalidValueError):
    """A setting, from an argument or the environment, is unknown or malformed."""


class InvalidRequestError(InvalidValueError):
    """An :class:`InferenceRequest` has a field that no backend could honour."""


class MissingDependencyError(LlamatelemetryError, ImportError):
    """Something optional is needed and not installed.

    Attributes:
        needed_for: The feature that was asked for.
        command: One command that installs what is missing.
    """

    def __init__(self, needed_for: str, missing: str, command: str) -> None:
        self.needed_for = needed_for
        self.missing = missing
        self.command = command
        super().__init__(f"{needed_for} needs {missing}, which is not installed. Run: {command}")


class UnknownNameError(LlamatelemetryError, LookupError):
    """A backend, stage or command name is registered by no installed plugin.

    Attributes:
        kind: What was looked up (``backend``, ...).
        name: The name asked for.
        known: Names that are registered.
    """

    def __init__(self, kind: str, name: str, known: tuple[str, ...], hint: str = "") -> None:
        self.kind = kind
        self.name = name
        self.known = known
        known_text = ", ".join(known) or "none"
        super().__init__(f"no {kind} is named {name!r}; registered: {known_text}.{hint and ' ' + hint}")


class PluginError(LlamatelemetryError):
    """A plugin could not be loaded, or what it registered could not be resolved."""


class BackendError(LlamatelemetryError):
    """A backend failed. Subclasses say how."""


class BackendStartError(BackendError):
    """A backend did not become ready.

    Attributes:
        log_tail: Last lines the runtime logged, oldest first; empty if it logged nothing.
    """

    def __init__(self, message: str, log_tail: tuple[str, ...] = ()) -> None:
        self.log_tail = log_tail
        if log_tail:
            message += "\nLast log lines:\n" + "\n".join(f"  {line}" for line in log_tail)
        super().__init__(message)


class BackendConnectionError(BackendError):
    """The backend's process or server cannot be reached, or the connection broke.

    Attributes:
        address: ``host:port`` or URL that was tried.
    """

    def __init__(self, address: str, reason: str, fix: str = "check that the server is running") -> None:
        self.address = address
        super().__init__(f"no answer from {address}: {reason}; {fix}")


class StreamInterruptedError(BackendError):
    """A stream ended before the backend said it was finished; what arrived is a partial answer."""


class BackendProtocolError(BackendError):
    """The backend answered something that its protocol does not allow."""


class BackendResponseError(BackendError):
    """The backend refused a request.

    Attributes:
        status: HTTP status code, or None for an in-process backend.
        kind: The backend's own error type, for example ``invalid_request_error``.
    """

    def __init__(self, message: str, *, status: int | None = None, kind: str | None = None) -> None:
        self.status = status
        self.kind = kind
        super().__init__(message)

    @property
    def error_type(self) -> str:
        """The HTTP status code if there is one and no subclass names the failure better."""
        if type(self) is BackendResponseError and self.status is not None:
            return str(self.status)
        return type(self).__name__


class ContextOverflowError(BackendResponseError):
    """The prompt does not fit the context.

    Attributes:
        prompt_tokens: Tokens in the prompt.
        context_length: Tokens that one slot can hold.
    """

    def __init__(self, prompt_tokens: int | None, context_length: int | None, *, status: int | None = None) -> None:
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length
        super().__init__(
            f"the prompt has {prompt_tokens} tokens and one slot holds {context_length}: "
            "shorten the prompt, or start the model with a larger context",
            status=status,
            kind="exceed_context_size_error",
        )


class ServerLoadingError(BackendResponseError):
    """The server is up but still loading its model; ask again in a moment."""


class NotSupportedError(BackendResponseError):
    """The backend, as started, does not offer what was asked for."""


class OutOfMemoryError(BackendResponseError):
    """The device that runs the model has no memory left for what was asked.

    Attributes:
        device: Where memory ran out, for example ``cuda:0``.
    """

    def __init__(self, device: str, during: str, fix: str) -> None:
        self.device = device
        super().__init__(f"{device} ran out of memory {during}: {fix}", kind="out_of_memory")


class IntegrityError(LlamatelemetryError, AssertionError):
    """Books that must balance do not: a slot or page was given back twice, lost, or given to two.

    Attributes:
        structure: What is broken, for example ``PagedKVCache``.
    """

    def __init__(self, structure: str, finding: str) -> None:
        self.structure = structure
        super().__init__(f"{structure}: {finding}. This is a defect of the code that drives it; please report it")


class EngineClosedError(LlamatelemetryError):
    """The engine was closed before the request could run."""


class RequestCancelledError(LlamatelemetryError):
    """The request was cancelled before it finished."""


class QueueFullError(LlamatelemetryError):
    """The queue takes no more: send less, or send again later.

    Attributes:
        depth: What waits: requests, or tokens.
        limit: Most that may.
        retry_after_s: Seconds until there should be room; None if that is not known.
    """

    def __init__(self, depth: int, limit: int, *, unit: str, retry_after_s: float | None) -> None:
        self.depth = depth
        self.limit = limit
        self.retry_after_s = retry_after_s
        later = "later" if retry_after_s is None else f"in about {retry_after_s:.1f} s"
        super().__init__(f"{depth} {unit} wait and {limit} is the limit: send it again {later}, or allow more")


class DeadlineExceededError(LlamatelemetryError, TimeoutError):
    """The request's ``deadline_s`` passed before it could run."""

    def __init__(self, deadline_s: float, waited_s: float) -> None:
        self.deadline_s = deadline_s
        self.waited_s = waited_s
        super().__init__(
            f"waited {waited_s:.3f} s for a slot and the deadline was {deadline_s:g} s: "
            "allow more time, send less, or add slots"
        )


class ModelFileError(LlamatelemetryError):
    """A model file is missing, truncated or not of the expected format.

    Attributes:
        path: The file.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path: str = str(path)
        super().__init__(f"{path}: {reason}")


class QuantizedBaseError(ModelFileError):
    """An adapter is to be merged into weights that are quantized, which cannot hold what it adds.

    Attributes:
        method: How they are quantized, for example ``bitsandbytes``.
        bits: Bits of a weight; None where the model does not say.
    """

    def __init__(self, path: object, method: str, bits: int | None) -> None:
        self.method = method
        self.bits = bits
        held = f"{bits} bits" if bits else "few bits"
        super().__init__(
            path,
            f"its weights are quantized to {held} by {method}. An adapter changes a weight by less than the steps "
            f"between the numbers that {held} have, so that merging would lose most of what was learned, and round "
            "all weights anew. Give the same model in 16 bits and merge the adapter into that, also if it was "
            "trained on the quantized one; then export and quantize the result",
        )


class ArtifactError(LlamatelemetryError):
    """An artifact, or the manifest that describes one, cannot be used. Subclasses say how."""


class InvalidManifestError(ArtifactError, InvalidValueError):
    """A manifest says something that no manifest may say.

    Attributes:
        path: The file it was read from; empty where it was not read from one.
    """

    def __init__(self, field: str, value: Any, fix: str, *, path: object = "") -> None:
        super().__init__(f"{path}: {field}" if path else field, value, fix)
        self.field = field
        self.path: str = str(path)


class ArtifactMissingError(ArtifactError, FileNotFoundError):
    """There is no such artifact, or no manifest of it.

    Attributes:
        name: What was asked for: a path or a digest.
    """

    def __init__(self, name: object, fix: str) -> None:
        self.name: str = str(name)
        super().__init__(f"{name} is not there: {fix}")


class ArtifactTamperedError(ArtifactError):
    """An artifact is not what its manifest says: files were changed, removed, added or cut short.

    Attributes:
        path: The artifact.
        findings: Each difference in a sentence that starts with the file it is about.
    """

    def __init__(self, path: object, findings: tuple[str, ...]) -> None:
        self.path: str = str(path)
        self.findings = findings
        shown = "; ".join(findings[:5]) + (f"; and {len(findings) - 5} more" if len(findings) > 5 else "")
        super().__init__(f"{path} is not what its manifest says: {shown}. Do not use it; make or fetch it again")


class ArtifactChangedError(ArtifactError):
    """A file changed while it was read, so its digest would describe nothing.

    Attributes:
        path: The file.
    """

    def __init__(self, path: object) -> None:
        self.path: str = str(path)
        super().__init__(f"{path} changed while it was read: wait until nothing writes to it, then try again")


class UnsafePathError(ArtifactError):
    """A path leads out of its artifact, or to something that is no plain file.

    Attributes:
        path: The path.
    """

    def __init__(self, path: object, reason: str, fix: str) -> None:
        self.path: str = str(path)
        super().__init__(f"{path} {reason}: {fix}")


class SignatureError(ArtifactError):
    """A signature cannot be made, does not belong to the key, or covers something else.

    Attributes:
        path: The signature.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path: str = str(path)
        super().__init__(f"{path}: {reason}")


class PipelineError(LlamatelemetryError):
    """A pipeline cannot be put together, or a stage of it failed. Subclasses say how."""


class PipelineDefinitionError(PipelineError, InvalidValueError):
    """A pipeline says something that cannot be carried out. Nothing was run.

    Attributes:
        path: The file it was read from; empty where it was not read from one.
    """

    def __init__(self, field: str, value: Any, fix: str, *, path: object = "") -> None:
        super().__init__(f"{path}: {field}" if path else field, value, fix)
        self.field = field
        self.path: str = str(path)


class StageInputError(PipelineError, InvalidValueError):
    """A stage's input can be taken from nowhere, or from several places. Nothing was run.

    Attributes:
        stage: The stage's id in the pipeline.
        input: The input.
    """

    def __init__(self, stage: str, input: str, value: Any, fix: str) -> None:  # noqa: A002  It is one.
        super().__init__(f"stage {stage!r}: inputs.{input}", value, fix)
        self.stage = stage
        self.input = input


class StageOutputError(PipelineError):
    """A stage did not make what it promises.

    Attributes:
        stage: The stage's id in the pipeline.
    """

    def __init__(self, stage: str, problem: str, fix: str) -> None:
        self.stage = stage
        super().__init__(f"stage {stage!r} {problem}: {fix}")


class StageFailedError(PipelineError):
    """A stage raised. What stages before it made is kept; ``__cause__`` is what was raised.

    Attributes:
        stage: The stage's id in the pipeline.
        run_id: The run.
        cause: What was raised.
    """

    def __init__(self, stage: str, run_id: str, cause: Exception) -> None:
        self.stage = stage
        self.run_id = run_id
        self.cause = cause
        super().__init__(
            f"stage {stage!r} failed: {type(cause).__name__}: {str(cause).rstrip('.')}. "
            "What was made before it is kept; run the pipeline again to go on from there"
        )

    @property
    def error_type(self) -> str:
        """That of what was raised."""
        return self.cause.error_type if isinstance(self.cause, LlamatelemetryError) else type(self.cause).__name__


class QualityLimitError(LlamatelemetryError):
    """A model lost more than was allowed.

    Attributes:
        figure: What is past its limit: ``perplexity``, ``perplexity_ratio`` or ``divergence``.
        value: What was measured.
        limit: Most that was allowed.
    """

    def __init__(self, figure: str, value: float, limit: float) -> None:
        self.figure = figure
        self.value = value
        self.limit = limit
        super().__init__(
            f"the model's {figure} is {value:.5g}, and at most {limit:.5g} was allowed: "
            "take a type with more bits, give an importance matrix, or allow more"
        )


class DeploymentError(LlamatelemetryError):
    """A model cannot be put behind a server, or its server is not what it should be. Subclasses say how."""


class DeploymentBusyError(DeploymentError):
    """Somebody else is changing the deployment.

    Attributes:
        name: Its name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"deployment {name!r} is being changed by another command: wait until that is done")


class DeploymentRecordError(DeploymentError):
    """The record of a deployment cannot be read.

    Attributes:
        path: The record.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path: str = str(path)
        super().__init__(f"{path} {reason}; end its server by hand if one runs, and remove the file")


class UnverifiedArtifactError(DeploymentError):
    """Nothing says what an artifact has to be.

    Attributes:
        path: The artifact.
    """

    def __init__(self, path: object, fix: str) -> None:
        self.path: str = str(path)
        super().__init__(f"{path} has no manifest, so nobody can tell whether it is what was made: {fix}")


class DoesNotFitError(DeploymentError):
    """A model needs more memory than there is.

    Attributes:
        where: Where it is missing: ``host``, or ``GPU 0``.
        short_bytes: How much is missing.
        arithmetic: What it needs and why, line by line.
    """

    def __init__(self, where: str, short_bytes: int, reason: str, arithmetic: tuple[str, ...]) -> None:
        self.where = where
        self.short_bytes = short_bytes
        self.arithmetic = arithmetic
        super().__init__("\n".join((reason, *arithmetic)))


class PortTakenError(DeploymentError):
    """Something else listens on the port that a server should have.

    Attributes:
        port: The port.
    """

    def __init__(self, port: int, reason: str) -> None:
        self.port = port
        super().__init__(f"port {port} of 127.0.0.1 cannot be used ({reason}): stop what has it, or give another")


class SmokeTestError(DeploymentError):
    """A server is there and does not answer as it should."""


class DeploymentFailedError(DeploymentError):
    """A deployment was not carried out. ``__cause__`` is what went wrong.

    Attributes:
        name: Its name.
        step: What failed: ``verify``, ``plan``, ``start``, ``smoke``, ``health`` or ``switch``.
        cause: What was raised.
        rollback: ``none``: nothing served before. ``kept``: what served before was never stopped. ``restarted``: it
            was started again. ``failed``: it could not be.
        url: Where the one before serves; empty where it does not.
    """

    def __init__(self, name: str, step: str, cause: Exception, *, rollback: str, url: str, now: str) -> None:
        self.name = name
        self.step = step
        self.cause = cause
        self.rollback = rollback
        self.url = url
        super().__init__(f"deployment {name!r} failed at {step}: {str(cause).rstrip('.')}. {now}")

    @property
    def error_type(self) -> str:
        """That of what was raised."""
        return self.cause.error_type if isinstance(self.cause, LlamatelemetryError) else type(self.cause).__name__


class GPUUnavailableError(LlamatelemetryError):
    """No GPU can be read: there is no driver, no device, no permission, or it was lost.

    Attributes:
        state: How far NVML could be opened: a value of :class:`llamatelemetry.gpu.device.DriverState`.
        message: What was found, in one sentence.
        fix: What to do about it; empty where nothing is known.
    """

    def __init__(self, state: str, message: str, fix: str = "") -> None:
        self.state = state
        self.message = message
        self.fix = fix
        super().__init__(f"{message.rstrip('.')}: {fix}" if fix else message)


class ReplayError(LlamatelemetryError):
    """A telemetry file could not be delivered; the message says how far it got."""
