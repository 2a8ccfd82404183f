"""One page that classifies crops in the browser: what ``glomedge export-page`` writes."""
