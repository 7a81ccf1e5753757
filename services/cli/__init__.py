"""``uneventful``: the operators' command; talks HTTP to control."""
