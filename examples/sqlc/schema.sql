CREATE TABLE acct (
  id  text   PRIMARY KEY,
  bal bigint NOT NULL CHECK (bal >= 0)
);
