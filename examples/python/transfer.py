#!/usr/bin/env python3
"""Moves money between two databases as one transaction, in one call, with the standard library alone.

    GAVEL=http://127.0.0.1:7441 ./transfer.py alice bob 30

The coordinator knows the databases as bank_a and bank_b, and may run SQL there: see --execute. Each has a table
    CREATE TABLE acct (id text PRIMARY KEY, bal bigint NOT NULL CHECK (bal >= 0))

Exit: 0 moved, 1 not moved, 3 moved, and the sum is not what it was, 5 nobody knows yet: run it again with KEY set to
the key that it prints, and the money is moved once.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

EXECUTE = os.environ.get("GAVEL", "http://127.0.0.1:7441") + "/gavel.v1.TransactionService/ExecuteTransaction"

# The codes of gavel that say of a call that it did nothing.
REFUSALS = (
    "invalid_argument", "failed_precondition", "permission_denied", "unauthenticated", "not_found", "unimplemented",
)


class NotDone(Exception):
    """Nothing of the transaction remains."""


class Unknown(Exception):
    """Nobody has said how the transaction ended."""


def execute(key, statements, repeated=False):
    """Runs statements as one transaction and returns their results: none if the key's transaction is done already.

    With its key it happens once, however often it is asked for. So whatever leaves the outcome open is followed by the
    same call again.
    """
    body = json.dumps({"idempotencyKey": key, "statements": statements}).encode()
    request = urllib.request.Request(EXECUTE, body, {"Content-Type": "application/json"})
    for pause in (0.1, 0.3, 1, 3, 10, 0):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer).get("results", [])
        except urllib.error.HTTPError as e:
            code, why = read_error(e)
            # A refusal says that this call did nothing. An earlier one may have.
            if code == "aborted" or (code in REFUSALS and not repeated):
                raise NotDone(why) from None
        except (OSError, ValueError, http.client.HTTPException) as e:
            why = str(e)
        repeated = True
        time.sleep(pause)
    raise Unknown(why)


def read_error(answer):
    """The code and the words of an answer that is an error, as far as they can be read."""
    try:
        error = json.load(answer)
        return error["code"], error["message"]
    except (OSError, ValueError, TypeError, KeyError, http.client.HTTPException):
        return "", str(answer)


def transfer(key, repeated, sender, receiver, amount):
    """Debits one database and credits the other: one row each, or nothing. Looks at the sums before and after."""
    sums = [{"resource": bank, "sql": "SELECT sum(bal)::bigint FROM acct"} for bank in ("bank_a", "bank_b")]
    moves = [
        {"resource": "bank_a", "sql": "UPDATE acct SET bal = bal - $1 WHERE id = $2 RETURNING bal",
         "args": [{"int64": amount}, {"text": sender}], "expectRows": 1},
        {"resource": "bank_b", "sql": "UPDATE acct SET bal = bal + $1 WHERE id = $2 RETURNING bal",
         "args": [{"int64": amount}, {"text": receiver}], "expectRows": 1},
    ]
    results = execute(key, sums + moves + sums, repeated)
    return [number(result) for result in results]


def number(result):
    """The one number that a statement returned. JSON has 64 bits as text."""
    return int(result["rows"][0]["values"][0]["int64"])


def main(sender, receiver, amount):
    earlier = os.environ.get("KEY")
    key = earlier or str(uuid.uuid4())
    try:
        numbers = transfer(key, bool(earlier), sender, receiver, amount)
    except NotDone as e:
        leave(1, f"not moved: {e}")
    except Unknown as e:
        leave(5, f"nobody knows yet, run it again with KEY={key}: {e}")
    print(f"moved {amount} from {sender} to {receiver}")
    if not numbers:
        return  # by an earlier call, whose answer was lost
    before, after = sum(numbers[:2]), sum(numbers[4:])
    print(f"{sender} has {numbers[2]}, {receiver} has {numbers[3]}")
    if after != before:
        leave(3, f"together they had {before}, now {after}")
    print(f"together they have {after}, as before")


def leave(exit_code, why):
    print(why, file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    if len(sys.argv) != 4 or not sys.argv[3].isdigit() or int(sys.argv[3]) == 0:
        leave(2, "usage: transfer.py FROM TO AMOUNT")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
