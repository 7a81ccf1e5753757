"""The Omaha v3 codec in the dialect of Flatcar's update_engine: pure, bytes in and bytes out."""
