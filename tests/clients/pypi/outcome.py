"""Runs one job and prints its outcome as one line of JSON.

`call` sends the job's request through a library. It returns `answer(...)`, and raises where there was no response. A
library that does not retry leaves the retry to its caller. The caller is `outcome` here, which follows "Retrying" of
docs/clients.md, with the same key. `calls` counts the calls of the library.
"""

import json
import sys
import time
import traceback
import types

MOST_CALLS = 4


def answer(status, headers, body, error=None):
    headers = {name.lower(): value for name, value in headers.items()}
    return {"status": status, "headers": headers, "body": body, "error": error}


def may_be_sent_again(result):
    headers = result["headers"]
    return (
        result["status"] in (408, 409, 503)
        and "retry-after" in headers
        and headers.get("content-type") == "application/problem+json"
    )


def outcome(call):
    job = types.SimpleNamespace(**json.loads(sys.argv[1]))
    calls = 0
    while True:
        calls += 1
        try:
            result = call(job)
        except Exception as error:
            result = {"status": None, "headers": {}, "error": type(error).__name__, "detail": traceback.format_exc()}
        if calls < MOST_CALLS and (result["status"] is None or may_be_sent_again(result)):
            time.sleep(int(result["headers"].get("retry-after", 0)))
            continue
        print(json.dumps({"calls": calls, **result}), flush=True)
        return
