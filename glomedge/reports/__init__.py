"""What people look at: pages, overlays, charts, the model card."""
