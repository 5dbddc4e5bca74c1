"""OpenTelemetry: the only floor that knows the SDK."""
