"""The one engine for ranged bytes: sources, workers, scheduler, sinks; no Hub, no registry."""
