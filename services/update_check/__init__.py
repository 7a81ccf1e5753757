"""Should this node update, and to what?"""
