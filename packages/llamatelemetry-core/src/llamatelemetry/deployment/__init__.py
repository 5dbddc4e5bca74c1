"""Deployments: a verified model behind a server that outlives the program that started it.

Importing this package imports nothing else: the supervisor of a server is to stay small.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamatelemetry.deployment.deploying import deploy as deploy
    from llamatelemetry.deployment.deploying import rollback as rollback
    from llamatelemetry.deployment.record import Deployment as Deployment
    from llamatelemetry.deployment.record import ServeOptions as ServeOptions
    from llamatelemetry.deployment.standing import DeploymentStatus as DeploymentStatus
    from llamatelemetry.deployment.standing import history as history
    from llamatelemetry.deployment.standing import status as status
    from llamatelemetry.deployment.stopping import stop as stop
else:
    _HOMES = {
        "Deployment": "record",
        "DeploymentStatus": "standing",
        "ServeOptions": "record",
        "deploy": "deploying",
        "history": "standing",
        "rollback": "deploying",
        "status": "standing",
        "stop": "stopping",
    }

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
