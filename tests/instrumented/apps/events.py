"""Answers events that come on stdin with the app of ``TRACEDBRIDGE_APP``: a JSON list of events to be sent at once."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from tracedbridge import vc_handler

with ThreadPoolExecutor(2) as pool:
    for line in sys.stdin:
        list(pool.map(lambda event: vc_handler(event, None), json.loads(line)))
        print("done", flush=True)
