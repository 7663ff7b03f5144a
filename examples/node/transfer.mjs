#!/usr/bin/env node
// Moves money between two databases as one transaction, in one call, without any package.
//
//     GAVEL=http://127.0.0.1:7441 ./transfer.mjs alice bob 30
//
// The coordinator knows the databases as bank_a and bank_b, and may run SQL there: see --execute. Each has a table
//     CREATE TABLE acct (id text PRIMARY KEY, bal bigint NOT NULL CHECK (bal >= 0))
//
// Exit: 0 moved, 1 not moved, 3 moved, and the sum is not what it was, 5 nobody knows yet: run it again with KEY set
// to the key that it prints, and the money is moved once.

import { randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";

const gavel = process.env.GAVEL ?? "http://127.0.0.1:7441";

// The codes of gavel that say of a call that it did nothing.
const refusals = [
  "invalid_argument", "failed_precondition", "permission_denied", "unauthenticated", "not_found", "unimplemented",
];

// Nothing of the transaction remains.
class NotDone extends Error {}
// Nobody has said how the transaction ended.
class Unknown extends Error {}

// execute runs statements as one transaction and returns their results: none if the key's transaction is done already.
// With its key it happens once, however often it is asked for. So whatever leaves the outcome open is followed by the
// same call again.
async function execute(key, statements, repeated = false) {
  let why;
  for (const ms of [100, 300, 1000, 3000, 10000, 0]) {
    try {
      const answer = await fetch(`${gavel}/gavel.v1.TransactionService/ExecuteTransaction`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ idempotencyKey: key, statements }),
        signal: AbortSignal.timeout(60_000),
      });
      if (answer.ok) return (await answer.json()).results ?? [];
      const error = await answer.json().catch(() => ({}));
      why = error.message ?? answer.statusText;
      // A refusal says that this call did nothing. An earlier one may have.
      if (error.code === "aborted" || (refusals.includes(error.code) && !repeated)) throw new NotDone(why);
    } catch (e) {
      if (e instanceof NotDone) throw e;
      why = e.cause?.message ?? e.message;
    }
    repeated = true;
    await pause(ms);
  }
  throw new Unknown(why);
}

// transfer debits one database and credits the other: one row each, or nothing. It looks at the sums before and after.
async function transfer(key, repeated, from, to, amount) {
  const sums = ["bank_a", "bank_b"].map((resource) => ({ resource, sql: "SELECT sum(bal)::bigint FROM acct" }));
  const results = await execute(key, [
    ...sums,
    { resource: "bank_a", sql: "UPDATE acct SET bal = bal - $1 WHERE id = $2 RETURNING bal",
      args: [{ int64: amount }, { text: from }], expectRows: 1 },
    { resource: "bank_b", sql: "UPDATE acct SET bal = bal + $1 WHERE id = $2 RETURNING bal",
      args: [{ int64: amount }, { text: to }], expectRows: 1 },
    ...sums,
  ], repeated);
  return results.map(number);
}

// number is the one number that a statement returned. JSON has 64 bits as text.
function number(result) {
  return BigInt(result.rows[0].values[0].int64);
}

function leave(exitCode, why) {
  console.error(why);
  process.exit(exitCode);
}

const [from, to, amount] = process.argv.slice(2);
if (!/^[1-9][0-9]*$/.test(amount)) leave(2, "usage: transfer.mjs FROM TO AMOUNT");
const earlier = process.env.KEY;
const key = earlier || randomUUID();
let numbers;
try {
  numbers = await transfer(key, Boolean(earlier), from, to, amount);
} catch (e) {
  if (e instanceof NotDone) leave(1, `not moved: ${e.message}`);
  leave(5, `nobody knows yet, run it again with KEY=${key}: ${e.message}`);
}
console.log(`moved ${amount} from ${from} to ${to}`);
// There are none if an earlier call, whose answer was lost, has moved it.
if (numbers.length > 0) {
  const [beforeA, beforeB, fromHas, toHas, afterA, afterB] = numbers;
  console.log(`${from} has ${fromHas}, ${to} has ${toHas}`);
  if (afterA + afterB !== beforeA + beforeB) {
    leave(3, `together they had ${beforeA + beforeB}, now ${afterA + afterB}`);
  }
  console.log(`together they have ${afterA + afterB}, as before`);
}
