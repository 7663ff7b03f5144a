#!/bin/sh
# Moves money between two PostgreSQL databases as one transaction, with curl and psql: no driver, no SDK.
#
#   GAVEL=http://127.0.0.1:7441 BANK_A=postgres://… BANK_B=postgres://… ./transfer.sh alice bob 30
#
# The coordinator knows the databases as bank_a and bank_b. A password belongs into ~/.pgpass, and not into the
# addresses, which every user of the machine can see. Each has a table
#   CREATE TABLE acct (id text PRIMARY KEY, bal bigint NOT NULL CHECK (bal >= 0))
# and what psql prepares must be finished by the coordinator's role: use the same, or SET LOCAL ROLE to one
# that both are members of.
#
# Exit: 0 moved, 1 not moved, 5 nobody knows yet: ask again with the id that it prints, 3 moved, and the sum is not
# what it was.
set -eu

usage() {
  echo "usage: transfer.sh FROM TO AMOUNT" >&2
  exit 2
}

[ $# -eq 3 ] || usage
from=$1 to=$2 amount=$3
case $amount in '' | *[!0-9]* | 0*) usage ;; esac

# call asks for a method with a body of JSON. It fails unless the answer is 200, and prints it all the same.
call() {
  curl --silent --show-error --fail-with-body --max-time 60 --header 'Content-Type: application/json' \
    --data "$2" "$GAVEL/gavel.v1.TransactionService/$1"
}

# text finds a string field of the object that holds another text.
text() { tr '{' '\n' | sed -n "/$2/s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" | head -n 1; }

# prepare does a branch's work in one psql session, and prepares it under the name that the coordinator gave.
# A statement that fails, and an account that does not exist, end psql, and PostgreSQL rolls back.
prepare() {
  psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --set name="$2" --set id="$3" --set n="$4" "$1" <<'SQL'
BEGIN;
UPDATE acct SET bal = bal + :'n'::bigint WHERE id = :'id' RETURNING bal \gset
PREPARE TRANSACTION :'name';
SQL
}

# total is what all accounts of both databases hold.
total() {
  for bank in "$BANK_A" "$BANK_B"; do
    psql --quiet --no-psqlrc --tuples-only --no-align --command 'SELECT sum(bal) FROM acct' "$bank"
  done | { read -r a && read -r b && echo $((a + b)); }
}

before=$(total)

begun=$(call BeginTransaction '{"resources": ["bank_a", "bank_b"], "label": "transfer"}') || {
  echo "not moved: $begun" >&2
  exit 1
}
id=$(printf '%s\n' "$begun" | text transactionId transactionId)
name_a=$(printf '%s\n' "$begun" | text preparedName '"bank_a"')
name_b=$(printf '%s\n' "$begun" | text preparedName '"bank_b"')
if [ -z "$id" ] || [ -z "$name_a" ] || [ -z "$name_b" ]; then
  echo "not moved: an answer without names: $begun" >&2
  exit 1
fi

if ! prepare "$BANK_A" "$name_a" "$from" "-$amount" || ! prepare "$BANK_B" "$name_b" "$to" "$amount"; then
  # Nobody but this script could ask for the commit, and it will not.
  call RollbackTransaction '{"transactionId": "'"$id"'", "reason": "psql failed"}' >/dev/null || :
  echo "not moved" >&2
  exit 1
fi

# The coordinator looks for itself whether both are prepared. Only 200 means committed, and only "aborted"
# means that nothing remains; after anything else the call is repeated.
for try in 1 2 3 4 5 6 7 8 9 10; do
  status=0
  answer=$(call CommitTransaction '{"transactionId": "'"$id"'"}') || status=$?
  case $status:$answer in
    0:*OUTCOME_COMMITTED*)
      echo "moved $amount from $from to $to, by transaction $id"
      after=$(total) || { echo "moved; the sum could not be read"; exit 0; }
      [ "$after" = "$before" ] || { echo "together they had $before, now $after" >&2; exit 3; }
      echo "together they have $after, as before"
      exit 0
      ;;
    *'"code":"aborted"'*)
      echo "not moved: $answer" >&2
      exit 1
      ;;
  esac
  sleep "$try"
done
echo "nobody knows yet: $id" >&2
exit 5
