"""Pictures to .csw files and back."""
