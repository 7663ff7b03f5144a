-- name: Debit :one
UPDATE acct SET bal = bal - sqlc.arg(amount) WHERE id = sqlc.arg(id) RETURNING bal;

-- name: Credit :one
UPDATE acct SET bal = bal + sqlc.arg(amount) WHERE id = sqlc.arg(id) RETURNING bal;

-- name: Total :one
SELECT sum(bal)::bigint FROM acct;
