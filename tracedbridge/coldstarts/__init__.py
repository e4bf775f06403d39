"""``tracedbridge coldstart``: many cold starts of one app in fresh processes, and what they say together."""
