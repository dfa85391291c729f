"""Pictures of what a layer becomes on a GPU, as SVG: for a file of their own, and inline in a page."""
