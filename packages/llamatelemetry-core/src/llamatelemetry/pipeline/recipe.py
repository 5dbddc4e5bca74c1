"""What a stage would make, known before it runs; and whether a store has it already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llamatelemetry.artifacts.hashing import HashProgress
from llamatelemetry.artifacts.manifest import ArtifactManifest, ArtifactParent, recipe_digest
from llamatelemetry.artifacts.store import ArtifactStore
from llamatelemetry.errors import ArtifactError
from llamatelemetry.pipeline.stage import Artifact, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides what a stage makes.

    Attributes:
        stage: The stage.
        tools: Its tools, and the version of its code.
        parents: What goes in, in the order of its inputs.
    """

    stage: Stage
    tools: Mapping[str, str]
    parents: tuple[ArtifactParent, ...]

    @property
    def key(self) -> str:
        """Its digest."""
        return self._digest(self.stage.name)

    def made_by(self, output: str) -> str:
        """What an output's manifest calls the stage; a stage with several outputs has a recipe for each."""
        return self.stage.name if len(self.stage.outputs) == 1 else f"{self.stage.name}.{output}"

    def digest(self, output: str) -> str:
        """Digest of the recipe of one output."""
        return self._digest(self.made_by(output))

    def _digest(self, stage: str) -> str:
        return recipe_digest(stage=stage, parameters=self.stage.parameters, tools=self.tools, parents=self.parents)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a store has of a recipe's outcome.

    Attributes:
        outputs: By name; None unless all of it is there, whole.
        damage: What is there and is not what it was, a sentence each.
    """

    outputs: Mapping[str, Artifact] | None
    damage: tuple[str, ...] = ()


def recipe_of(stage: Stage, inputs: Mapping[str, Artifact]) -> Recipe:
    """The recipe of a stage with these inputs."""
    return Recipe(
        stage=stage,
        tools={f"stage {stage.name}": stage.version, **stage.tools},
        parents=tuple(inputs[port.name].manifest.as_parent(port.name) for port in stage.inputs if port.name in inputs),
    )


def look_up(store: ArtifactStore, recipe: Recipe, progress: Callable[[HashProgress], None] | None = None) -> Kept:
    """What a store has of a recipe's outcome, every byte of it held to its manifest. Never raises for damage."""
    found: dict[str, Artifact] = {}
    damage = []
    for port in recipe.stage.outputs:
        try:
            manifest: ArtifactManifest | None = store.find(recipe.digest(port.name))
            if manifest is not None and manifest.kind == port.kind:
                found[port.name] = Artifact(path=store.verify(manifest, progress=progress), manifest=manifest)
        except ArtifactError as error:
            damage.append(str(error))
    whole = bool(found) and len(found) == len(recipe.stage.outputs)
    return Kept(outputs=found if whole else None, damage=tuple(damage))
