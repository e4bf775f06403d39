"""What Vercel imports: it serves the class in index.py; TRACEDBRIDGE_APP would name another file."""

from tracedbridge import vc_handler

__all__ = ("vc_handler",)
