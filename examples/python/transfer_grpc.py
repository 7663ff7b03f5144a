#!/usr/bin/env python3
"""Moves money between two databases as one transaction, by gRPC: it begins at the coordinator, runs its SQL in a
session at each database's sidecar, looks in between whether the sum is right, and commits.

    mkdir -p /tmp/stubs
    protoc --proto_path=proto --python_out=/tmp/stubs proto/gavel/v1/*.proto    # or python -m grpc_tools.protoc
    export PYTHONPATH=/tmp/stubs GAVEL=127.0.0.1:7440 BANK_A=127.0.0.1:7450 BANK_B=127.0.0.1:7460
    examples/python/transfer_grpc.py alice bob 30

That is from the root of the repository. It needs grpcio and protobuf. The sidecars may run SQL: see gavel participant --sql. The coordinator knows them as
bank_a and bank_b, and each database has a table
    CREATE TABLE acct (id text PRIMARY KEY, bal bigint NOT NULL CHECK (bal >= 0))

Exit: 0 moved, 1 not moved, 5 nobody knows yet: ask gavel tx show.
"""

import os
import queue
import sys
import time

import grpc
from gavel.v1 import sql_pb2, transaction_pb2

PATIENCE = 60  # seconds


class NotMoved(Exception):
    """Nothing of the transaction remains."""


class Unknown(Exception):
    """Nobody has said how the transaction ended."""


class Coordinator:
    """The methods of gavel.v1.TransactionService that a transfer needs."""

    def __init__(self, channel):
        self.channel = channel

    def call(self, method, **fields):
        """Calls a method: XRequest has the fields, and XResponse is returned."""
        request = getattr(transaction_pb2, method + "Request")(**fields)
        return self.channel.unary_unary(
            "/gavel.v1.TransactionService/" + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(transaction_pb2, method + "Response").FromString,
        )(request, timeout=PATIENCE)

    def commit(self, transaction_id):
        """Returns once it is committed. Only ABORTED says that it is not: all else is followed by the same call."""
        for pause in (0.1, 0.3, 1, 3, 10, 0):
            try:
                return self.call("CommitTransaction", transaction_id=transaction_id)
            except grpc.RpcError as e:
                if e.code() == grpc.StatusCode.ABORTED:
                    raise NotMoved(e.details()) from None
                why = e.details()
            time.sleep(pause)
        raise Unknown(f"{transaction_id}: {why}")

    def rollback(self, transaction_id, why):
        """Tells the coordinator, which would find out by itself when the transaction's time is over."""
        try:
            self.call("RollbackTransaction", transaction_id=transaction_id, reason=why[:512])
        except grpc.RpcError:
            pass


class Session:
    """A session of a database, and a branch of a transaction: one call of gavel.v1.SqlService."""

    def __init__(self, channel, branch):
        self.requests = queue.SimpleQueue()
        self.answers = channel.stream_stream(
            "/gavel.v1.SqlService/Execute",
            request_serializer=sql_pb2.ExecuteRequest.SerializeToString,
            response_deserializer=sql_pb2.ExecuteResponse.FromString,
        )(iter(self.requests.get, None), timeout=PATIENCE)
        attach = sql_pb2.ExecuteAttach(
            resource=branch.resource,
            prepared_name=branch.prepared_name,
            isolation=sql_pb2.ISOLATION_REPEATABLE_READ,
        )
        self.requests.put(sql_pb2.ExecuteRequest(attach=attach))
        if next(self.answers, None) is None:
            raise NotMoved("a session ended early")

    def execute(self, sql, *args):
        """Runs a statement that must affect one row, and returns the rows."""
        statement = sql_pb2.ExecuteStatement(sql=sql, args=map(value, args), expect_rows=1)
        self.requests.put(sql_pb2.ExecuteRequest(statement=statement))
        rows = []
        for answer in self.answers:
            if answer.HasField("done"):
                return rows
            rows += answer.rows.rows
        raise NotMoved("a session ended early")

    def finish(self):
        """Leaves the session to the coordinator."""
        self.requests.put(None)
        for _ in self.answers:
            pass


def value(v):
    return sql_pb2.SqlValue(int64=v) if isinstance(v, int) else sql_pb2.SqlValue(text=v)


def transfer(coordinator, channels, sender, receiver, amount):
    """Debits one database and credits the other."""
    begun = coordinator.call("BeginTransaction", resources=["bank_a", "bank_b"], label="transfer")
    try:
        work(begun.branches, channels, sender, receiver, amount)
    except (grpc.RpcError, NotMoved) as e:
        # Nobody but this program could ask for the commit, and it will not.
        why = e.details() if isinstance(e, grpc.RpcError) else str(e)
        coordinator.rollback(begun.transaction_id, why)
        raise NotMoved(why) from None
    coordinator.commit(begun.transaction_id)
    print(f"moved {amount} from {sender} to {receiver}, by transaction {begun.transaction_id}")


def work(branches, channels, sender, receiver, amount):
    """What is done before the commit. Any failure of it rolls everything back."""
    by_bank = {branch.resource: branch for branch in branches}
    a = Session(channels["bank_a"], by_bank["bank_a"])
    b = Session(channels["bank_b"], by_bank["bank_b"])
    before = total(a) + total(b)
    update(a, sender, -amount)
    update(b, receiver, amount)
    after = total(a) + total(b)
    if after != before:
        raise NotMoved(f"together they had {before}, and would have {after}")
    a.finish()
    b.finish()
    print(f"together they have {after}, as before")


def update(session, account, amount):
    rows = session.execute("UPDATE acct SET bal = bal + $1 WHERE id = $2 RETURNING bal", amount, account)
    print(f"{account} would have {rows[0].values[0].int64}")


def total(session):
    return session.execute("SELECT sum(bal)::bigint FROM acct")[0].values[0].int64


def main(sender, receiver, amount):
    address = os.environ.get
    with (
        grpc.insecure_channel(address("GAVEL", "127.0.0.1:7440")) as gavel,
        grpc.insecure_channel(address("BANK_A", "127.0.0.1:7450")) as a,
        grpc.insecure_channel(address("BANK_B", "127.0.0.1:7460")) as b,
    ):
        try:
            transfer(Coordinator(gavel), {"bank_a": a, "bank_b": b}, sender, receiver, amount)
        except grpc.RpcError as e:  # nothing was begun
            leave(1, f"not moved: {e.details()}")
        except NotMoved as e:
            leave(1, f"not moved: {e}")
        except Unknown as e:
            leave(5, f"nobody knows yet: {e}")


def leave(exit_code, why):
    print(why, file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    if len(sys.argv) != 4 or not sys.argv[3].isdigit() or int(sys.argv[3]) == 0:
        leave(2, "usage: transfer_grpc.py FROM TO AMOUNT")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
