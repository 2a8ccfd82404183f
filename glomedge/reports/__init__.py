"""Output for people: pages, overlays, charts, the model card."""
