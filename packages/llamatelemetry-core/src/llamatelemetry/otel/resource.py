"""The resource: which process all of its telemetry comes from."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from llamatelemetry.config import Settings

_SERVICE_NAME: Final = "service.name"
_SERVICE_INSTANCE_ID: Final = "service.instance.id"


def build_resource(
    settings: Settings, detected: Mapping[str, Any] | None = None, given: Mapping[str, Any] | None = None
) -> Resource:
    """Merges what is known of the process; later wins.

    The order is: the SDK's own, our name and version as its distribution, what plugins detected,
    OTEL_RESOURCE_ATTRIBUTES, what the caller gave, and the service name unless nobody set one.

    Args:
        settings: Says the service's name.
        detected: What plugins found out.
        given: What the caller of ``init()`` said.
    """
    ours = {
        "telemetry.distro.name": "llamatelemetry",
        "telemetry.distro.version": version("llamatelemetry-core"),
        **(detected or {}),
    }
    environment = dict(OTELResourceDetector().detect().attributes)
    stated = {**environment, **(given or {})}
    if settings.service_name != Settings().service_name or _SERVICE_NAME not in stated:
        stated[_SERVICE_NAME] = settings.service_name
    resource = Resource.create().merge(Resource(ours)).merge(Resource(stated))
    if not resource.attributes.get(_SERVICE_INSTANCE_ID):
        resource = resource.merge(Resource({_SERVICE_INSTANCE_ID: str(uuid.uuid4())}))
    return resource
