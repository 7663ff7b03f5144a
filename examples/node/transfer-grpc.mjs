#!/usr/bin/env node
// Moves money between two databases as one transaction, by gRPC: it begins at the coordinator, runs its SQL in a
// session at each database's sidecar, looks in between whether the sum is right, and commits.
//
//     cd examples/node && npm ci
//     export GAVEL=127.0.0.1:7440 BANK_A=127.0.0.1:7450 BANK_B=127.0.0.1:7460
//     ./transfer-grpc.mjs alice bob 30
//
// It reads the messages from ../../proto: a copy of it needs them there.
//
// The sidecars may run SQL: see gavel participant --sql. The coordinator knows them as bank_a and bank_b, and each
// database has a table
//     CREATE TABLE acct (id text PRIMARY KEY, bal bigint NOT NULL CHECK (bal >= 0))
//
// Exit: 0 moved, 1 not moved, 5 nobody knows yet: ask gavel tx show.

import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const protos = fileURLToPath(new URL("../../proto", import.meta.url));
const { gavel } = grpc.loadPackageDefinition(
  loader.loadSync(["gavel/v1/transaction.proto", "gavel/v1/sql.proto"], {
    includeDirs: [protos], longs: String, arrays: true,
  }),
);
const plaintext = grpc.credentials.createInsecure();
const deadline = () => Date.now() + 60_000;

const { GAVEL = "127.0.0.1:7440", BANK_A = "127.0.0.1:7450", BANK_B = "127.0.0.1:7460" } = process.env;
const coordinator = new gavel.v1.TransactionService(GAVEL, plaintext);
const sidecars = {
  bank_a: new gavel.v1.SqlService(BANK_A, plaintext),
  bank_b: new gavel.v1.SqlService(BANK_B, plaintext),
};

// ask calls a method of the coordinator.
const ask = (method, request) =>
  promisify(coordinator[method]).call(coordinator, request, { deadline: deadline() });

// Nobody has said how the transaction ended.
class Unknown extends Error {}

// Session is a session of a database, and a branch of a transaction: one call of gavel.v1.SqlService.
class Session {
  constructor(branch) {
    this.call = sidecars[branch.resource].execute({ deadline: deadline() });
    this.answers = this.call[Symbol.asyncIterator]();
    this.call.write({
      attach: {
        resource: branch.resource, preparedName: branch.preparedName, isolation: "ISOLATION_REPEATABLE_READ",
      },
    });
    // Asked for at once: before that nobody would hear that the call has failed.
    this.attached = this.next();
    this.attached.catch(() => {});
  }

  async next() {
    const { value, done } = await this.answers.next();
    if (done) throw new Error("a session ended early");
    return value;
  }

  // execute runs a statement that must affect one row, and returns that row's first number.
  async execute(sql, ...args) {
    this.call.write({ statement: { sql, args, expectRows: 1 } });
    const rows = [];
    for (let answer = await this.next(); !answer.done; answer = await this.next()) {
      rows.push(...answer.rows.rows);
    }
    return BigInt(rows[0].values[0].int64);
  }

  // finish leaves the session to the coordinator.
  async finish() {
    this.call.end();
    while (!(await this.answers.next()).done);
  }
}

// work is what is done before the commit. Any failure of it rolls everything back.
async function work(sessions, from, to, amount) {
  for (const s of sessions) await s.attached;
  const [a, b] = sessions;
  const before = await total(sessions);
  await update(a, from, -amount);
  await update(b, to, amount);
  const after = await total(sessions);
  if (after !== before) throw new Error(`together they had ${before}, and would have ${after}`);
  for (const s of sessions) await s.finish();
  console.log(`together they have ${after}, as before`);
}

async function update(session, account, amount) {
  const sql = "UPDATE acct SET bal = bal + $1 WHERE id = $2 RETURNING bal";
  const has = await session.execute(sql, { int64: amount }, { text: account });
  console.log(`${account} would have ${has}`);
}

async function total(sessions) {
  let sum = 0n;
  for (const s of sessions) sum += await s.execute("SELECT sum(bal)::bigint FROM acct");
  return sum;
}

// commit returns once it is committed. Only ABORTED says that it is not: all else is followed by the same call.
async function commit(transactionId) {
  let lost;
  for (const ms of [100, 300, 1000, 3000, 10000, 0]) {
    try {
      return await ask("commitTransaction", { transactionId });
    } catch (e) {
      if (e.code === grpc.status.ABORTED) throw e;
      lost = e;
    }
    await pause(ms);
  }
  throw new Unknown(`${transactionId}: ${lost.details}`);
}

async function transfer(from, to, amount) {
  const { transactionId, branches } = await ask("beginTransaction", {
    resources: ["bank_a", "bank_b"], label: "transfer",
  });
  const sessions = ["bank_a", "bank_b"].map((bank) => new Session(branches.find((b) => b.resource === bank)));
  try {
    await work(sessions, from, to, amount);
  } catch (e) {
    for (const s of sessions) s.call.cancel();
    // Nobody but this program could ask for the commit, and it will not. A coordinator that does not hear of it finds
    // out when the transaction's time is over.
    await ask("rollbackTransaction", { transactionId, reason: "the client gave up" }).catch(() => {});
    throw e;
  }
  await commit(transactionId);
  console.log(`moved ${amount} from ${from} to ${to}, by transaction ${transactionId}`);
}

const [from, to, amount] = process.argv.slice(2);
if (!/^[1-9][0-9]*$/.test(amount)) {
  console.error("usage: transfer-grpc.mjs FROM TO AMOUNT");
  process.exit(2);
}
try {
  await transfer(from, to, Number(amount));
} catch (e) {
  const unknown = e instanceof Unknown;
  console.error(unknown ? "nobody knows yet:" : "not moved:", e.details ?? e.message);
  process.exitCode = unknown ? 5 : 1;
}
for (const s of [coordinator, ...Object.values(sidecars)]) s.close();
