#!/bin/sh
# Moves money between two databases as one transaction, in one call, with curl: no driver, no SDK, no client of the
# databases.
#
#   GAVEL=http://127.0.0.1:7441 ./execute.sh alice bob 30
#
# The coordinator knows the databases as bank_a and bank_b, and may run SQL there: see --execute. Each has a table
#   CREATE TABLE acct (id text PRIMARY KEY, bal bigint NOT NULL CHECK (bal >= 0))
#
# Exit: 0 moved, 1 not moved, 5 nobody knows yet: run it again with KEY set to the key that it prints, and the money is
# moved once.
set -eu

usage() {
  echo "usage: execute.sh FROM TO AMOUNT" >&2
  exit 2
}

[ $# -eq 3 ] || usage
from=$1 to=$2 amount=$3
case $amount in '' | *[!0-9]* | 0*) usage ;; esac
key=${KEY:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}

# What stands within JSON below must need no escapes there.
case $from$to$amount$key in
  *[!0-9A-Za-z_-]*)
    echo "not moved: names and keys are of letters, digits, - and _" >&2
    exit 2
    ;;
esac

# execute asks for the transaction. With its key it happens once, however often it is asked for.
execute() {
  curl --silent --show-error --fail-with-body --max-time 60 --header 'Content-Type: application/json' --data @- \
    "$GAVEL/gavel.v1.TransactionService/ExecuteTransaction" <<JSON
{
  "idempotencyKey": "$key",
  "statements": [
    {"resource": "bank_a", "sql": "UPDATE acct SET bal = bal - \$1 WHERE id = \$2",
     "args": [{"int64": "$amount"}, {"text": "$from"}], "expectRows": 1},
    {"resource": "bank_b", "sql": "UPDATE acct SET bal = bal + \$1 WHERE id = \$2",
     "args": [{"int64": "$amount"}, {"text": "$to"}], "expectRows": 1}
  ]
}
JSON
}

# Only 200 means committed, and only "aborted" means that nothing remains. Some codes say that the call did nothing,
# which settles it if it is the first one with this key. After anything else the call is repeated.
repeated=${KEY:+yes}
for pause in 0.1 0.3 1 3 10 0; do
  status=0
  answer=$(execute) || status=$?
  case $status:$answer in
    0:*OUTCOME_COMMITTED*)
      echo "moved $amount from $from to $to"
      exit 0
      ;;
    *'"code":"aborted"'*)
      echo "not moved: $answer" >&2
      exit 1
      ;;
    *'"code":"invalid_argument"'* | *'"code":"failed_precondition"'* | *'"code":"permission_denied"'* | \
      *'"code":"unauthenticated"'* | *'"code":"not_found"'* | *'"code":"unimplemented"'*)
      [ "$repeated" ] || { echo "not moved: $answer" >&2; exit 1; }
      ;;
  esac
  repeated=yes
  sleep "$pause"
done
echo "nobody knows yet, run it again with KEY=$key: $answer" >&2
exit 5
